"""Authentication-Results that a sender wrote in our name are taken out: programs behind us believe them (RFC 8601)."""

from __future__ import annotations

import shutil
import tempfile
from typing import IO, Final

from django.conf import settings

from protocols.message import header_section, iter_headers
from protocols.message.authresults import BadAuthResults, parse_auth_results
from protocols.names import Domain

FIELD: Final = b"authentication-results"


def without_results_of(hostname: Domain, content: bytes | IO[bytes]) -> bytes | IO[bytes]:
    """The content without the fields that name this server; the very same where there are none, as nearly always."""
    section, _ = header_section(content)
    if FIELD not in section.lower():
        return content
    kept, position = [], 0
    for field in iter_headers(section):
        if field.name.lower().encode() == FIELD and _names(field.value(), hostname):
            kept.append(section[position : field.start])
            position = field.end
    if not position:
        return content
    kept.append(section[position:])
    rest = len(section)
    if isinstance(content, bytes):
        return b"".join(kept) + content[rest:]
    copy = tempfile.TemporaryFile(dir=settings.MOX.temporary_dir)  # noqa: SIM115 # read by the caller, gone with it
    copy.writelines(kept)
    content.seek(rest)
    shutil.copyfileobj(content, copy)
    copy.seek(0)
    return copy


def _names(value: bytes, hostname: Domain) -> bool:
    """Whether a field claims to be by this server; one that cannot be read might be read so by others."""
    try:
        said = parse_auth_results(value.decode("utf-8", "replace")).hostname
    except BadAuthResults:
        return hostname.ascii.encode() in value.lower()
    return said.lower() in (hostname.ascii, hostname.name().lower())
