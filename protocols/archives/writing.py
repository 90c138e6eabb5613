"""What all writers of archives have in common."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Protocol


class ArchiveWriter(Protocol):
    """Takes directories and files in any order; each method gives bytes to pass on, ``finish`` the last of them.

    ``name`` has no slash at its ends. ``size``, where it is known, must be that of the content.
    """

    def directory(self, name: str, modified: datetime) -> Iterator[bytes]: ...

    def file(
        self, name: str, modified: datetime, content: Iterable[bytes], size: int | None = None
    ) -> Iterator[bytes]: ...

    def finish(self) -> Iterator[bytes]: ...
