"""Static files by hashed names, from memory: made once, before the processes fork, never stale, no step to forget.

The names of the files change with their content, so browsers keep them for good. ``{% static "web/mox.css" %}`` gives
the address below the endpoint that is being answered.
"""

from __future__ import annotations

import gzip
import mimetypes
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from django.contrib.staticfiles.finders import get_finders
from django.contrib.staticfiles.storage import ManifestFilesMixin
from django.core.files.storage import InMemoryStorage
from django.urls import get_script_prefix

PREFIX: Final = "static/"  # below each endpoint
_IGNORED: Final = [
    ".*",
    "*~",
    "README*",
    "LICENSE*",
    "rest_framework",  # pages that no call here has
    "i18n",  # everything here is English
    "jquery.js",  # Django's admin uses what is minified
    "select2.full.js",
    "xregexp.js",
]
_COMPRESSIBLE: Final = frozenset({"text/css", "text/javascript", "image/svg+xml", "text/plain", "application/json"})
_TYPES: Final = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml", ".woff2": "font/woff2"}


@dataclass(frozen=True, slots=True)
class StaticFile:
    """A file as it is sent."""

    content_type: str
    content: bytes
    compressed: bytes | None
    """In gzip, where that is smaller."""


class MemoryStaticStorage(ManifestFilesMixin, InMemoryStorage):  # type: ignore[misc]  # a mixin for any storage
    """Django's hashed names and rewritten references, on copies in memory instead of a directory to collect into."""

    support_js_module_import_aggregation = True

    def __init__(self) -> None:
        self._made = False
        self._making = threading.RLock()
        self._files: dict[str, StaticFile] = {}
        super().__init__()

    @property
    def base_url(self) -> str:
        """Below the endpoint of the request that is being answered."""
        return get_script_prefix() + PREFIX

    def load_manifest(self) -> tuple[dict[str, Any], str]:  # type: ignore[override]  # the stubs forget the hash
        """There is none: it is made with the files."""
        return {}, ""

    def save_manifest(self) -> None:
        pass

    def stored_name(self, name: str) -> str:
        self.make()
        stored: str = super().stored_name(name)
        return stored

    def make(self) -> None:
        """Read, hash and compress all files of the installed apps, once. Takes a few tenths of a second."""
        with self._making:
            if self._made:
                return
            self._made = True
            names = {}
            for name, storage in self._found():
                if name not in names:
                    names[name] = (self, name)
                    with storage.open(name) as file:
                        self.save(name, file)
            for _, _, problem in self.post_process(names):
                if isinstance(problem, Exception):
                    raise problem
            for hashed in set(self.hashed_files.values()):
                with self.open(hashed) as file:
                    self._files[hashed] = _file(hashed, file.read())

    def file(self, hashed_name: str) -> StaticFile | None:
        """By its hashed name; other names are not served, for they could be stale."""
        self.make()
        return self._files.get(hashed_name)

    def _found(self) -> Iterator[tuple[str, Any]]:
        for finder in get_finders():
            yield from finder.list(_IGNORED)


def _file(name: str, content: bytes) -> StaticFile:
    suffix = name[name.rfind(".") :]
    content_type = _TYPES.get(suffix) or mimetypes.guess_type(name)[0] or "application/octet-stream"
    compressed = gzip.compress(content, 6, mtime=0) if content_type in _COMPRESSIBLE else None
    if compressed is not None and len(compressed) >= len(content):
        compressed = None
    if content_type.startswith("text/"):
        content_type += "; charset=utf-8"
    return StaticFile(content_type, content, compressed)
