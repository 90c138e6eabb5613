"""Reading message content: the prefix of a placement and its blob as one sequence of bytes."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from types import TracebackType
from typing import IO, Final, Self, TypeAlias

from django.core.files.storage import storages

from .errors import ContentError, MessageGone
from .models import Message

CHUNK: Final = 64 * 1024  # bytes handed out at a time


class Reader:
    """Content of one message, ``size`` bytes. Close it, or use it in a ``with``."""

    __slots__ = ("_data", "_file", "_lock", "_prefix", "_storage_name", "_what", "size")

    def __init__(self, prefix: bytes, size: int, data: bytes | None, storage_name: str, what: str) -> None:
        self._prefix = prefix
        self._data = data
        self._storage_name = storage_name
        self._what = what
        self._file: IO[bytes] | None = None
        self._lock = threading.Lock()
        self.size = len(prefix) + size
        if data is not None and len(data) != size:
            raise ContentError(f"{what}: {len(data)} bytes are stored, {size} were expected")

    def read_at(self, offset: int, length: int) -> bytes:
        """The bytes from ``offset`` on: ``length`` of them, fewer only at the end. Raises ContentError."""
        length = min(length, self.size - offset)
        if length <= 0:
            return b""
        ahead = len(self._prefix)
        head = self._prefix[offset : offset + length] if offset < ahead else b""
        if len(head) == length:
            return head
        body = self._read_blob(max(0, offset - ahead), length - len(head))
        return head + body if head else body

    def chunks(self, offset: int = 0, length: int | None = None, chunk: int = CHUNK) -> Iterator[bytes]:
        """The bytes from ``offset`` on, in pieces of at most ``chunk``."""
        end = self.size if length is None else min(self.size, offset + length)
        while offset < end:
            block = self.read_at(offset, min(chunk, end - offset))
            offset += len(block)
            yield block

    def read(self) -> bytes:
        """All of it: for content that is known to be small."""
        return self.read_at(0, self.size)

    def close(self) -> None:
        with self._lock:
            if self._file is not None:
                self._file.close()
                self._file = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _read_blob(self, offset: int, length: int) -> bytes:
        if self._data is not None:
            return self._data[offset : offset + length]
        with self._lock:
            try:
                if self._file is None:
                    self._file = storages["messages"].open(self._storage_name, "rb")
                self._file.seek(offset)
                block = self._file.read(length)
            except OSError as exc:
                raise ContentError(f"{self._what}: content {self._storage_name} cannot be read: {exc}") from exc
        if len(block) != length:
            raise ContentError(
                f"{self._what}: content {self._storage_name} ends at byte {offset + len(block)}, "
                f"{offset + length} were expected"
            )
        return block


Bytes: TypeAlias = "bytes | memoryview[int]"  # what the databases give for a BinaryField


def reader(prefix: Bytes, blob_id: int, blob_size: int, data: Bytes | None, storage_name: str) -> Reader:
    """A reader from the columns of a row, without another query."""
    stored = None if data is None else bytes(data)
    return Reader(bytes(prefix), blob_size, stored, storage_name, f"blob {blob_id}")


def blob_reader(blob_id: int, blob_size: int, data: Bytes | None, storage_name: str) -> Reader:
    """A reader of a blob's content alone."""
    return reader(b"", blob_id, blob_size, data, storage_name)


def message_reader(message_id: int) -> Reader:
    """The content of a message. Raises MessageGone."""
    row = (
        Message.objects.filter(pk=message_id, blob__isnull=False)
        .values_list("prefix", "blob_id", "blob__size", "blob__data", "blob__storage_name")
        .first()
    )
    if row is None:
        raise MessageGone(f"message {message_id} was removed")
    prefix, blob_id, size, data, storage_name = row
    return reader(prefix, blob_id, size, data, storage_name)
