"""The SMTP client (RFC 5321): one server, one session, results per recipient; leaves where to connect to others.

session = await connect(addresses, 25, hello=IPDomain(domain=hostname), tls=TLSPolicy(TLSMode.OPPORTUNISTIC))
delivery = await session.deliver(mail_from, recipients, content, has_8bit=False)
await session.quit()
"""

from __future__ import annotations

from .authentication import DEFAULT_MECHANISMS, Credentials
from .channel import Observer, Timeouts
from .dial import Dialer, dial
from .errors import ConnectFailed, ExtensionMissing, SMTPError, TLSFailure
from .extensions import Extensions, Limits
from .replies import Reply
from .session import Session, connect
from .tlspolicy import PKIX, CertificateCheck, CheckResult, TLSMode, TLSPolicy
from .transaction import Delivery, Hooks, RecipientResult

__all__ = [
    "DEFAULT_MECHANISMS",
    "PKIX",
    "CertificateCheck",
    "CheckResult",
    "ConnectFailed",
    "Credentials",
    "Delivery",
    "Dialer",
    "ExtensionMissing",
    "Extensions",
    "Hooks",
    "Limits",
    "Observer",
    "RecipientResult",
    "Reply",
    "SMTPError",
    "Session",
    "TLSFailure",
    "TLSMode",
    "TLSPolicy",
    "Timeouts",
    "connect",
    "dial",
]
