"""Where the part of a name begins that somebody registered: organizational domains (RFC 7489 section 3.2).

By the ICANN section of the list of publicsuffix.org that the package ``publicsuffixlist`` brings: the private section
(``github.io``) is left out, as RFC 7489 erratum 6729 says. The list is read at the first use.
"""

from __future__ import annotations

from functools import cache, lru_cache
from typing import Final

from publicsuffixlist import PublicSuffixList

from protocols.names import Domain

CACHE: Final = 10_000  # names; mail comes from the same few thousand domains over and over


def organizational_domain(domain: Domain) -> Domain:
    """The public suffix of ``domain`` and one label more; the domain itself when it has no more than a suffix.

    Under a top-level domain that the list does not know, the last two labels.
    """
    labels = domain.ascii.split(".")
    count = _suffix_labels(domain.ascii) + 1
    if len(labels) <= count:
        return domain
    return Domain(".".join(labels[-count:]), _unicode_tail(domain, labels, count))


def is_public_suffix(domain: Domain) -> bool:
    """Whether nobody's name is above this one: people register names under it. True for each top-level domain."""
    return domain.ascii.count(".") + 1 <= _suffix_labels(domain.ascii)


@lru_cache(maxsize=CACHE)
def _suffix_labels(name: str) -> int:
    suffix = _list().publicsuffix(name)
    return suffix.count(".") + 1 if suffix else 1


@cache
def _list() -> PublicSuffixList:
    return PublicSuffixList(only_icann=True, accept_unknown=True, accept_encoded_idn=True)


def _unicode_tail(domain: Domain, labels: list[str], count: int) -> str:
    """The same labels as U-labels, "" when that is no different."""
    if not domain.unicode:
        return ""
    tail = domain.unicode.split(".")[-count:]
    return ".".join(tail) if tail != labels[-count:] else ""
