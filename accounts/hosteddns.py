"""What DNS would say about the hosted domains, from what is configured: for an installation without DNS.

resolver = hosted_resolver()        # reads the database; knows the hosted domains, and that nothing else exists
"""

from __future__ import annotations

import re
from ipaddress import IPv4Address
from typing import Any, Final

from protocols import dkim
from protocols.dns import Answer, MockResolver

from .models import DKIMSelector, Domain

SPF: Final = "v=spf1 ip4:127.0.0.1/8 ip6:::1 ~all"
ADDRESS: Final = "127.0.0.1"
TTL: Final = 300  # seconds

_REVERSE: Final = re.compile(r"([0-9]{1,3}\.[0-9]{1,3}\.[0-9]{1,3}\.127)\.in-addr\.arpa\.", re.IGNORECASE)
_OWN_NAME: Final = re.compile(
    r"ip-(127-(?:0|[1-9][0-9]?|1[0-9]{2}|2[0-4][0-9]|25[0-5])-(?:0|[1-9][0-9]?|1[0-9]{2}|2[0-4][0-9]|25[0-5])-(?:0|[1-9][0-9]?|1[0-9]{2}|2[0-4][0-9]|25[0-5]))\.localhost\.",
    re.IGNORECASE,
)


class LoopbackResolver(MockResolver):
    """Each address of this machine has a name of its own: who tries a server out may come from any of them."""

    async def _lookup(self, name: str, rtype: str) -> Answer[Any]:
        if rtype == "ptr" and (match := _REVERSE.fullmatch(name)):
            own = "-".join(reversed(match[1].split(".")))
            return Answer((f"ip-{own}.localhost.",), authentic=False, canonical=name, ttl=TTL)
        if rtype == "a" and (match := _OWN_NAME.fullmatch(name)):
            return Answer((IPv4Address(match[1].replace("-", ".")),), authentic=False, canonical=name, ttl=TTL)
        return await super()._lookup(name, rtype)


def hosted_resolver() -> MockResolver:
    """Answers for the hosted domains: this machine is their mail server and may send for them; their DKIM keys."""
    resolver = LoopbackResolver(
        {
            "a localhost.": [ADDRESS],
            "aaaa localhost.": ["::1"],
            "ptr ::1": ["localhost."],
        }
    )
    for name in Domain.objects.values_list("name", flat=True):
        resolver.add(f"mx {name}.", "10 localhost.")
        resolver.add(f"txt {name}.", SPF)
    for selector in DKIMSelector.objects.select_related("domain"):
        record = dkim.DkimRecord.for_key(dkim.load_private_key(selector.private_key))
        resolver.add(f"txt {selector.name}._domainkey.{selector.domain.name}.", record.compose())
    return resolver
