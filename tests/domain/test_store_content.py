"""Content comes back as it was stored, and large content is a file that is on disk before anything refers to it."""

from __future__ import annotations

import io
import os

import pytest
from django.conf import settings
from django.core.files.storage import storages

from accounts.models import Account
from store import blobs, content, delivery
from store.db import write_tx
from store.errors import ContentError, MessageGone
from store.messages import NewMessage
from store.models import Blob

pytestmark = pytest.mark.database

HEADER = b"Subject: x\r\n\r\n"


def deliver(account: Account, data: bytes, prefix: bytes = b"Received: here\r\n") -> int:
    prepared = blobs.prepare(io.BytesIO(data))
    with write_tx(account.pk) as tx:
        return delivery.deliver(tx, delivery.Delivery(account.pk, "", NewMessage(prepared, prefix))).message_id


@pytest.mark.parametrize("size", [0, 1, 100, 65535, 65536, 65537, 1_500_000])
def test_it_is_read_as_it_was_written(account: Account, size: int) -> None:
    data = HEADER + os.urandom(size)
    with content.message_reader(deliver(account, data)) as reader:
        assert reader.read() == b"Received: here\r\n" + data
        assert b"".join(reader.chunks()) == b"Received: here\r\n" + data
        assert b"".join(reader.chunks(10, 20, chunk=3)) == (b"Received: here\r\n" + data)[10:30]
        assert reader.read_at(reader.size, 10) == b""
        assert reader.read_at(reader.size - 2, 10) == data[-2:]


def test_large_content_is_a_file_and_small_content_is_not(account: Account) -> None:
    limit = settings.MOX_BLOB_INLINE_MAX
    small, large = HEADER.ljust(limit, b"a"), HEADER.ljust(limit + 1, b"a")
    stored = [Blob.objects.get(messages=deliver(account, data)) for data in (small, large)]
    assert stored[0].storage_name == ""
    assert stored[1].data is None
    path = storages["messages"].path(stored[1].storage_name)
    with open(path, "rb") as file:
        assert file.read() == large
    assert os.stat(path).st_mode & 0o777 == 0o640


def test_a_body_without_header_section_is_parted_from_the_prefix(account: Account) -> None:
    with content.message_reader(deliver(account, b"\r\njust text\r\n")) as reader:
        header, _, body = reader.read().partition(b"\r\n\r\n")
    assert header == b"Received: here"
    assert body.endswith(b"just text\r\n")


def test_newlines_are_normalized_wherever_a_block_ends() -> None:
    for at in (blobs.CHUNK - 2, blobs.CHUNK - 1, blobs.CHUNK):
        data = HEADER.ljust(at, b"a") + b"\r\nb\nc\r\n\nd\re"
        prepared = blobs.prepare(io.BytesIO(data), normalize_newlines=True)
        with content.blob_reader(1, prepared.size, prepared.data, prepared.storage_name) as reader:
            assert reader.read_at(at, 100) == b"\r\nb\r\nc\r\n\r\nd\re"
        prepared.discard()
        assert not storages["messages"].exists(prepared.storage_name)


def test_missing_and_cut_content_is_named(account: Account) -> None:
    message_id = deliver(account, HEADER.ljust(100_000, b"a"))
    blob = Blob.objects.get(messages=message_id)
    path = storages["messages"].path(blob.storage_name)
    with open(path, "rb") as file:
        data = file.read()
    os.truncate(path, 50)
    with content.message_reader(message_id) as reader, pytest.raises(ContentError, match="ends at byte 50"):
        reader.read()
    os.unlink(path)
    with content.message_reader(message_id) as reader, pytest.raises(ContentError, match="cannot be read"):
        reader.read()
    with open(path, "wb") as file:
        file.write(data)


def test_a_message_that_is_gone_is_named() -> None:
    with pytest.raises(MessageGone, match="999999999"):
        content.message_reader(999999999)
