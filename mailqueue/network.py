"""What all that the queue asks of the network shares in a process: the resolver, the roots it trusts, and threads that
use the database meanwhile."""

from __future__ import annotations

import functools
from typing import Final

from django.conf import settings

from protocols.dns.stub import StubResolver
from protocols.pkix import Roots
from server.models import ServerSettings
from store.pool import Threads

DATABASE_THREADS: Final = 4  # for what is no delivery; those have their own


@functools.cache
def resolver() -> StubResolver:
    """The one of this process, with its cache."""
    environment = settings.MOX
    return StubResolver(environment.dns_resolvers, trust_ad=environment.dns_trust_ad).for_package("queue")


def roots(server: ServerSettings) -> Roots:
    """The authorities whose certificates count."""
    return _roots(server.extra_ca_pem, not server.extra_ca_only)


@functools.cache
def database() -> Threads:
    """Threads for the ORM, beside an event loop."""
    return Threads(DATABASE_THREADS, "queue-network-database")


@functools.lru_cache(maxsize=4)
def _roots(extra_pem: str, system: bool) -> Roots:
    """The same object for the same trust: plans that use it are equal."""
    return Roots(extra_pem, system=system)
