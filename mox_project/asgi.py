"""The web process: which views answer for which kind of endpoint, on the sockets of the supervisor."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import uvloop

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "mox_project.settings")

from django.conf import settings  # the module above must be named first
from django.contrib.staticfiles.storage import staticfiles_storage
from django.urls import get_resolver

from server.models import EndpointKind
from server.ratelimit import Limiter
from store.bridge import Bridge
from web.handler import DjangoHandler
from web.listeners import HTTPSocket, Listeners
from web.pipeline import Pipeline, Site
from web.server import Server
from web.static_files import MemoryStaticStorage
from webapi.authentication import admits

THREADS: Final = 16  # requests that are worked on at a time; more wait, each for some milliseconds
HEALTH_THREADS: Final = 2  # beside a process that has other work

HEALTH_SITES: Final = {EndpointKind.METRICS: Site("mox_project.urls")}
SITES: Final = HEALTH_SITES | {
    EndpointKind.WEBMAIL: Site("webmail.urls", static=("web", "webmail")),
    EndpointKind.ADMIN: Site("webadmin.urls", static=("web", "webadmin", "admin")),
    EndpointKind.WEBAPI: Site(
        "webapi.urls", static=("web", "webapi"), max_body=settings.MOX.webapi_max_body, admit=admits
    ),
}
"""Endpoints of other kinds are not served yet: 404."""


def prepare() -> None:
    """Make what web processes need and can share: to be called before they are forked."""
    assert isinstance(staticfiles_storage, MemoryStaticStorage)
    staticfiles_storage.make()
    for site in SITES.values():
        get_resolver(site.urlconf).check()  # imports the views


def run(sockets: Sequence[HTTPSocket], ready: Callable[[], None]) -> None:
    """Serve HTTP on these sockets until SIGTERM. ``ready`` is called when connections are accepted."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(SITES, THREADS, sockets, ready))


def run_health_beside(sockets: Sequence[HTTPSocket]) -> None:
    """Answer what machines ask of a server, in a thread: for a process of a node that has no web process."""

    def serve() -> None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_serve(HEALTH_SITES, HEALTH_THREADS, sockets, lambda: None))

    threading.Thread(target=serve, name="health", daemon=True).start()


async def _serve(
    sites: Mapping[EndpointKind, Site], threads: int, sockets: Sequence[HTTPSocket], ready: Callable[[], None]
) -> None:
    bridge = Bridge(threads)
    await bridge.start()
    limiter = Limiter(settings.MOX_CACHE_URL)  # of this loop: in a mail process there is another
    listeners = Listeners(bridge.call)
    django = DjangoHandler(bridge.call, bridge.writer)
    application = Pipeline(sites, listeners, django, limiter, settings.MOX.trusted_proxies)
    await Server(application, sockets, listeners, ready).serve()
    await bridge.close()
    await limiter.aclose()
