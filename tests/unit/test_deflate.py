"""Deflate on a connection: what comes is given in small pieces, whatever it grows to, and nothing else is touched."""

from __future__ import annotations

import base64
import random
import zlib

import pytest

from protocols.deflate import UNPACKED_MAX, BadDeflate, Deflate


def packer() -> zlib._Compress:
    return zlib.compressobj(wbits=-15)


def unpacked(deflate: Deflate) -> bytes:
    return b"".join(iter(deflate.unpack, b""))


def test_what_one_packs_the_other_unpacks_flush_by_flush() -> None:
    ours, theirs = Deflate(), Deflate()
    for text in (b"* OK one\r\n", b"* OK two\r\n" * 50_000, b"", b"* OK three\r\n"):
        theirs.received(ours.pack(text) + ours.flush())
        assert unpacked(theirs) == text
    ours.rest()  # what comes now refers to nothing before
    theirs.received(ours.pack(b"* OK four\r\n") + ours.flush())
    assert unpacked(theirs) == b"* OK four\r\n"
    assert theirs.waiting == 0


@pytest.mark.parametrize("mode", [zlib.Z_PARTIAL_FLUSH, zlib.Z_SYNC_FLUSH, zlib.Z_FULL_FLUSH])
def test_any_flush_will_do_and_any_cut(mode: int) -> None:
    client = packer()
    stream = b"".join(client.compress(b"a%d NOOP\r\n" % number) + client.flush(mode) for number in range(20))
    deflate = Deflate()
    seen = b""
    for position in range(len(stream)):
        deflate.received(stream[position : position + 1])
        seen += unpacked(deflate)
    assert seen == b"".join(b"a%d NOOP\r\n" % number for number in range(20))


def test_a_bomb_is_unpacked_as_far_as_it_is_read() -> None:
    client = packer()
    bomb = client.compress(bytes(20 << 20)) + client.flush()
    deflate = Deflate()
    deflate.received(bomb)
    sizes = [len(deflate.unpack()) for _ in range(20)]
    assert max(sizes) <= UNPACKED_MAX
    assert len(bomb) * 0.9 < deflate.waiting < len(bomb)
    total = sum(sizes)
    while block := deflate.unpack():
        total += len(block)
    assert total == 20 << 20
    assert deflate.ended


def test_what_follows_a_flush_is_left_alone_until_it_is_asked_for() -> None:
    client = packer()
    flushed = client.compress(b"a UNAUTHENTICATE\r\n") + client.flush(zlib.Z_SYNC_FLUSH)
    deflate = Deflate()
    deflate.received(flushed + b"b LOGIN me secret\r\n")
    assert deflate.unpack() == b"a UNAUTHENTICATE\r\n"
    assert deflate.end() == b"b LOGIN me secret\r\n"


def test_an_ended_stream_gives_back_what_follows_it() -> None:
    client = packer()
    deflate = Deflate()
    deflate.received(client.compress(b"a UNAUTHENTICATE\r\n") + client.flush() + b"b NOOP\r\n")
    assert deflate.unpack() == b"a UNAUTHENTICATE\r\n"
    assert deflate.unpack() == b""
    assert deflate.ended
    assert deflate.end() == b"b NOOP\r\n"


def test_flushing_nothing_without_end_takes_many_turns() -> None:
    client = packer()
    nothing = b"\x00\x00\x00\xff\xff" * 10_000
    deflate = Deflate()
    deflate.received(nothing + client.compress(b"a NOOP\r\n") + client.flush(zlib.Z_SYNC_FLUSH))
    turns = 0
    while not (data := deflate.unpack()):
        assert deflate.waiting
        turns += 1
    assert data == b"a NOOP\r\n"
    assert turns > 30


def test_what_is_no_deflate_is_refused() -> None:
    for garbage in (b"a NOOP\r\n", b"\xff" * 100, zlib.compress(b"with a zlib header")):
        deflate = Deflate()
        deflate.received(garbage)
        with pytest.raises(BadDeflate):
            unpacked(deflate)


def test_attachments_among_text_are_packed_in_their_own_way() -> None:
    text = b"".join(b"* %d FETCH (UID %d FLAGS (\\Seen))\r\n" % (number, number) for number in range(1500))
    noise = random.Random(1).randbytes(48_000)  # what cannot be compressed
    letters = base64.b64encode(noise)
    ours, theirs = Deflate(), Deflate()
    sizes = []
    for data in (text, letters, text, noise, text[:100], letters, noise, text):
        packed = ours.pack(data)
        sizes.append(len(packed))
        theirs.received(packed)
    theirs.received(ours.flush())
    assert unpacked(theirs) == text + letters + text + noise + text[:100] + letters + noise + text
    assert sum(sizes) < 0.7 * 3 * len(text) + 0.78 * 2 * len(letters) + 1.01 * 2 * len(noise)


def test_stored_blocks_are_taken() -> None:
    client = zlib.compressobj(0, wbits=-15)
    deflate = Deflate()
    deflate.received(client.compress(b"a NOOP\r\n") + client.flush(zlib.Z_SYNC_FLUSH))
    assert deflate.unpack() == b"a NOOP\r\n"
