"""Reading messages (RFC 5322, MIME): structure, headers, text; leaves composing, storing and IMAP's forms to others."""

from __future__ import annotations

from .addresses import EnvAddress, parse_addresses
from .charset import clean_text, decode_bytes, index_text
from .dates import parse_date
from .encodedwords import decode_header
from .errors import FromError, MessageError
from .facts import from_address, is_dsn, needs_smtputf8
from .headers import HeaderField, Parameterized, iter_headers, parse_parameterized, unfold
from .parser import ensure_part, parse
from .source import BytesSource, FileSource, Readable, Source, SubSource, as_source
from .structure import Envelope, Part
from .threads import MessageID, ThreadSubject, message_id_canonical, referenced_ids, thread_subject
from .transfer import crlf_blocks, decode, decode_stream

__all__ = [
    "BytesSource",
    "EnvAddress",
    "Envelope",
    "FileSource",
    "FromError",
    "HeaderField",
    "MessageError",
    "MessageID",
    "Parameterized",
    "Part",
    "Readable",
    "Source",
    "SubSource",
    "ThreadSubject",
    "as_source",
    "clean_text",
    "crlf_blocks",
    "decode",
    "decode_bytes",
    "decode_header",
    "decode_stream",
    "ensure_part",
    "from_address",
    "index_text",
    "is_dsn",
    "iter_headers",
    "message_id_canonical",
    "needs_smtputf8",
    "parse",
    "parse_addresses",
    "parse_date",
    "parse_parameterized",
    "referenced_ids",
    "thread_subject",
    "unfold",
]
