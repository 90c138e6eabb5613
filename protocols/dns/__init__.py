"""DNS lookups that say whether the answer was verified by DNSSEC: what every protocol library needs of a resolver.

Here are the values and the interface, and a resolver that answers from memory. The one that asks name servers is in
``protocols.dns.stub``: it alone needs dnspython.
"""

from __future__ import annotations

from .errors import EDE, DNSError, ErrorKind, is_dnssec_error
from .interface import Resolver
from .mock import MockResolver
from .records import MX, SOA, SRV, TLSA, Answer, IPAddress, absolute

__all__ = [
    "EDE",
    "MX",
    "SOA",
    "SRV",
    "TLSA",
    "Answer",
    "DNSError",
    "ErrorKind",
    "IPAddress",
    "MockResolver",
    "Resolver",
    "absolute",
    "is_dnssec_error",
]
