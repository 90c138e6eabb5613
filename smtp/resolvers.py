"""The resolver for a connection: the one that asks name servers, or in localserve one that knows the hosted domains."""

from __future__ import annotations

import asyncio
import time
from typing import Final

from accounts.hosteddns import hosted_resolver
from protocols.dns import Resolver
from store.bridge import Bridge

MAX_AGE: Final = 1.0  # seconds that a change of domains or keys may take to be seen


class Resolvers:
    """What the SMTP services of a process share."""

    def __init__(self, bridge: Bridge, asking: Resolver) -> None:
        self._bridge = bridge
        self._asking = asking
        self._hosted: Resolver | None = None
        self._made = 0.0
        self._making = asyncio.Lock()

    async def get(self, *, localserve: bool) -> Resolver:
        """The resolver to use now."""
        if not localserve:
            return self._asking
        async with self._making:
            if self._hosted is None or time.monotonic() - self._made > MAX_AGE:
                self._hosted = await self._bridge.call(hosted_resolver)
                self._made = time.monotonic()
            return self._hosted
