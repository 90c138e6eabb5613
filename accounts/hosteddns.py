"""What DNS would say about the hosted domains, from what is configured: for an installation without DNS.

resolver = hosted_resolver()        # reads the database; knows the hosted domains, and that nothing else exists
"""

from __future__ import annotations

from typing import Final

from protocols import dkim
from protocols.dns import MockResolver

from .models import DKIMSelector, Domain

SPF: Final = "v=spf1 ip4:127.0.0.1/8 ip6:::1 ~all"
ADDRESS: Final = "127.0.0.1"


def hosted_resolver() -> MockResolver:
    """Answers for the hosted domains: this machine is their mail server and may send for them; their DKIM keys."""
    resolver = MockResolver(
        {
            "a localhost.": [ADDRESS],
            "aaaa localhost.": ["::1"],
            f"ptr {ADDRESS}": ["localhost."],
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
