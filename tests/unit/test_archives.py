"""Archives as streams: what we write other programs read and the reverse, and whatever is hostile is refused."""

from __future__ import annotations

import gzip
import io
import random
import shutil
import struct
import subprocess
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from protocols import archives
from protocols.archives import ArchiveError, Kind

MOMENT = datetime(2024, 3, 5, 10, 11, 13, tzinfo=UTC)
FILES = {
    "Inbox.mbox": b"From x\n\nhello\n",
    "Lists/pythön/cur/1.2:2,S": b"",
    "x" * 300 + "/new/1": bytes(1000),
    "zeros": bytes(400_000),
    "noise": random.Random(1).randbytes(90_001),
}


def tar(writer: archives.TarWriter | None = None) -> bytes:
    return b"".join(_written(writer or archives.TarWriter()))


def tgz() -> bytes:
    return b"".join(archives.compressed(_written(archives.TarWriter())))


def zipped() -> bytes:
    return b"".join(_written(archives.ZipWriter()))


def _written(writer: archives.ArchiveWriter) -> Iterator[bytes]:
    yield from writer.directory("Lists/empty", MOMENT)
    for number, (name, data) in enumerate(FILES.items()):
        blocks = (data[at : at + 7000] for at in range(0, len(data), 7000))
        yield from writer.file(name, MOMENT, blocks, len(data) if number % 2 else None)
    yield from writer.finish()


def read(data: bytes, length: int = 65536) -> dict[str, bytes | str]:
    """The files with their content; of others what is wrong with them."""
    found: dict[str, bytes | str] = {}
    for member in archives.members(io.BytesIO(data)):
        blocks = []
        while block := member.content.read(length):
            blocks.append(block)
        found[member.name] = member.problem or ("" if member.kind is Kind.DIRECTORY else b"".join(blocks))
    return found


@pytest.mark.parametrize("make", [tar, tgz, zipped])
@pytest.mark.parametrize("length", [65536, 1 << 24])
def test_what_is_written_is_read(make: Callable[[], bytes], length: int) -> None:
    found = read(make(), length)
    assert {name.rstrip("/"): value for name, value in found.items()} == {"Lists/empty": "", **FILES}


@pytest.mark.parametrize("make", [tar, tgz, zipped])
def test_files_have_their_time(make: Callable[[], bytes]) -> None:
    assert {member.modified for member in archives.members(io.BytesIO(make()))} == {MOMENT}


def test_members_that_nobody_reads_are_passed() -> None:
    for make in (tar, tgz, zipped):
        assert len(list(archives.members(io.BytesIO(make())))) == len(FILES) + 1


def test_programs_read_what_is_written(tmp_path: Path) -> None:
    for make, command in ((tar, ["tar", "tf"]), (tgz, ["tar", "tzf"]), (zipped, ["unzip", "-tq"])):
        if shutil.which(command[0]) is None:
            continue
        (tmp_path / "archive").write_bytes(make())
        done = subprocess.run([*command, str(tmp_path / "archive")], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    with zipfile.ZipFile(io.BytesIO(zipped())) as zip_file:
        assert zip_file.testzip() is None
        assert len(zip_file.namelist()) == len(FILES) + 1


def test_pythons_own_archives_are_read() -> None:
    for form in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w:gz", format=form) as made:
            for name, data in FILES.items():
                if form == tarfile.USTAR_FORMAT and len(name) > 200:
                    continue
                info = tarfile.TarInfo(name)
                info.size = len(data)
                made.addfile(info, io.BytesIO(data))
        found = read(buffer.getvalue())
        assert {name: found[name] for name in found} == {name: FILES[name] for name in found}
        assert len(found) >= len(FILES) - 1
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", method) as zip_file:
            for name, data in FILES.items():
                zip_file.writestr(name, data)
        assert read(buffer.getvalue()) == FILES
        assert read(b"#!/bin/sh\n" * 0 + buffer.getvalue()) == FILES


def test_links_devices_and_pipes_are_named_and_have_no_content() -> None:
    buffer = io.BytesIO()
    kinds = {
        tarfile.SYMTYPE: "is a symbolic link",
        tarfile.LNKTYPE: "is a hard link",
        tarfile.CHRTYPE: "is a device",
        tarfile.BLKTYPE: "is a device",
        tarfile.FIFOTYPE: "is a pipe",
        tarfile.GNUTYPE_SPARSE: "is a sparse file",
    }
    with tarfile.open(fileobj=buffer, mode="w:gz") as made:
        for kind in kinds:
            info = tarfile.TarInfo(f"kind {kind.decode()}")
            info.type = kind
            info.linkname = "/etc/passwd"
            made.addfile(info)
        info = tarfile.TarInfo("after")
        info.size = 3
        made.addfile(info, io.BytesIO(b"abc"))
    assert read(buffer.getvalue()) == {**{f"kind {k.decode()}": text for k, text in kinds.items()}, "after": b"abc"}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as zip_file:
        link = zipfile.ZipInfo("link")
        link.external_attr = 0o120777 << 16
        zip_file.writestr(link, "/etc/passwd")
        packed = zipfile.ZipInfo("packed")
        packed.compress_type = zipfile.ZIP_LZMA
        zip_file.writestr(packed, "x")
    assert read(buffer.getvalue()) == {
        "link": "is a symbolic link",
        "packed": "is compressed in a way that is not known here (method 14)",
    }


def test_names_in_other_charsets_are_read() -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz", encoding="latin-1", format=tarfile.GNU_FORMAT) as made:
        made.addfile(tarfile.TarInfo("Entwürfe.mbox"))
    assert list(read(buffer.getvalue())) == ["Entwürfe.mbox"]
    data = zipped()
    raw = "pythön".encode()
    cp437 = data.replace(raw, "pyth\u00f6nx".encode("cp437"))
    assert "Lists/pythönx/cur/1.2:2,S" in read(cp437)


@pytest.mark.parametrize("make", [tar, tgz, zipped])
def test_an_archive_that_was_cut_off_is_refused_wherever_it_ends(make: Callable[[], bytes]) -> None:
    data = make()
    places = {1, 3, 100, 262, 512, 513, 1024, 2000, len(data) // 2, len(data) - 2000, len(data) - 600, len(data) - 1}
    for end in places:
        if make is tar and end > len(data) - 600:
            continue  # of the end mark one record is enough
        with pytest.raises(ArchiveError):
            read(data[:end])


@pytest.mark.parametrize("make", [tgz, zipped])
def test_a_changed_byte_is_noticed(make: Callable[[], bytes]) -> None:
    data = make()
    at = data.index(FILES["noise"][1000:1010]) if FILES["noise"][1000:1010] in data else len(data) - 60_000
    changed = data[:at] + bytes([data[at] ^ 0x55]) + data[at + 1 :]
    with pytest.raises(ArchiveError, match="damaged"):
        read(changed)


@pytest.mark.parametrize("data", [b"", b"P", b"From x\n", b"\x1f\x8b", b"PK\x03\x04", b"\x1f\x8bzzzz", bytes(2000)])
def test_what_is_no_archive_is_refused(data: bytes) -> None:
    with pytest.raises(ArchiveError):
        read(data)


def test_a_bomb_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("protocols.archives.entries.RATIO_FREE", 1 << 20)
    for data in (gzip.compress(_tar_of_zeros(1 << 24)), _zip_of_overlapping_zeros(1 << 22, 8)):
        unpacked: list[int] = []
        with pytest.raises(ArchiveError, match="as no mail does"):
            unpacked.extend(_sizes(data))
        assert sum(unpacked) <= max(1 << 20, 200 * len(data))


def _sizes(data: bytes) -> Iterator[int]:
    for member in archives.members(io.BytesIO(data)):
        while block := member.content.read(65536):
            yield len(block)


def _tar_of_zeros(size: int) -> bytes:
    info = tarfile.TarInfo("zeros.mbox")
    info.size = size
    return info.tobuf() + bytes(size) + bytes(1024)


def _zip_of_overlapping_zeros(size: int, times: int) -> bytes:
    """One file that the list of files names many times."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as zip_file:
        zip_file.writestr("zeros", bytes(size))
    data = buffer.getvalue()
    start = data.index(b"PK\x01\x02")
    end = data.index(b"PK\x05\x06")
    entries = data[start:end] * times
    return data[:start] + entries + struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, times, times, len(entries), start, 0)


def test_headers_that_claim_too_much_are_refused() -> None:
    info = tarfile.TarInfo("a")
    info.type = tarfile.GNUTYPE_LONGNAME
    info.size = 1 << 40
    with pytest.raises(ArchiveError, match="extended header of 1099511627776 bytes"):
        read(gzip.compress(info.tobuf(tarfile.GNU_FORMAT) + bytes(4096)))
    info = tarfile.TarInfo("a")
    info.size = 1 << 60
    with pytest.raises(ArchiveError, match="ends early"):
        read(gzip.compress(info.tobuf(tarfile.GNU_FORMAT) + bytes(4096)))
    for records in (b"99999 path=a\n", b"0 path=a\n", b"9 size=-1\n", b"x", b"12 size=1e9999\n"):
        header = tarfile.TarInfo("x")
        header.type = tarfile.XHDTYPE
        header.size = len(records)
        with pytest.raises(ArchiveError, match="extended header"):
            read(gzip.compress(header.tobuf() + records.ljust(512, b"\0") + tarfile.TarInfo("a").tobuf() + bytes(1024)))


def test_gzip_members_one_after_the_other_are_one_stream() -> None:
    data = tar()
    joined = gzip.compress(data[:5000]) + gzip.compress(data[5000:]) + bytes(10_000)
    assert len(read(joined)) == len(FILES) + 1
    with pytest.raises(ArchiveError):
        read(gzip.compress(data) + b"rest")


def test_a_member_that_ends_in_the_middle_of_a_run_is_whole() -> None:
    """All of the packed bytes are taken in while zlib still has some to give."""
    raw = bytes(1 << 20)
    compressor = zlib.compressobj(9, wbits=-15)
    packed = compressor.compress(raw) + compressor.flush()
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as zip_file:
        zip_file.writestr("zeros", raw)
    assert packed in buffer.getvalue()
    for length in (1, 1000) if len(packed) < 10 else (257, 1000, 65535):
        assert read(buffer.getvalue(), length) == {"zeros": raw}
