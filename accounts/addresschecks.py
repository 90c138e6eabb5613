"""What is wrong with addresses and aliases as they are stored: somebody may have changed them by hand.

for problem in problems(): ...      # what it is, why it is wrong, and what to do
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from django.db.models import Count

from protocols.names import own_hostname
from server.models import ServerSettings

from .addresses import canonical_address, fold
from .aliases import MEMBERS_MAX
from .models import Address, Alias, Domain

CHUNK: Final = 1000  # rows in memory at a time


def problems() -> Iterator[str]:
    """Each breach of the rules that changes keep (admin.md section 9)."""
    canonical: dict[str, str] = {}
    whole: dict[str, str] = {}  # by the folded localpart, as reports are compared
    for rows in (Address.objects.all(), Alias.objects.all()):
        for row in rows.select_related("domain").order_by("pk").iterator(chunk_size=CHUNK):
            shown = f"{row._meta.verbose_name} {row}"
            yield from _own_problems(row, shown)
            if row.canonical in canonical:
                yield f"{shown} is {canonical[row.canonical]}, too: remove one of them"
            canonical[row.canonical] = whole[f"{fold(row.localpart)}@{row.domain.name}"] = shown
    yield from _report_problems(whole)
    sized = Alias.objects.annotate(size=Count("memberships")).select_related("domain")
    for alias in sized.filter(size=0):
        yield f"alias {alias} has no members, mail to it is refused: add some, or remove it"
    for alias in sized.filter(size__gt=MEMBERS_MAX):
        yield f"alias {alias} has more than {MEMBERS_MAX} members: make several aliases of it"


def _own_problems(row: Address | Alias, shown: str) -> Iterator[str]:
    domain = row.domain
    separator = next((one for one in domain.localpart_catchall_separators if one in row.localpart), "")
    if separator:
        yield f'{shown} contains "{separator}", the catchall separator of {domain}: replace it by another'
    elif row.canonical != canonical_address(row.localpart, domain):
        yield f"{shown} is stored as {row.canonical}, by which it is not found: remove it and add it again"


def _report_problems(taken: Mapping[str, str]) -> Iterator[str]:
    for domain in Domain.objects.select_related("dmarc_domain", "tlsrpt_domain").order_by("name"):
        for kind, localpart, at in (
            ("DMARC", domain.dmarc_localpart, domain.dmarc_domain or domain),
            ("TLSRPT", domain.tlsrpt_localpart, domain.tlsrpt_domain or domain),
        ):
            if (other := taken.get(f"{fold(localpart)}@{at.name}")) is not None and localpart:
                yield f"{other} takes the {kind} reports of {domain}: have these come to another address"
    settings = ServerSettings.current()
    other = taken.get(f"{fold(settings.host_tlsrpt_localpart)}@{own_hostname(settings.hostname).ascii}")
    if settings.host_tlsrpt_account and other is not None:
        yield f"{other} takes the TLS reports about this server: choose another host_tlsrpt_localpart in its settings"
