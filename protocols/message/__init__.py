"""Messages (RFC 5322, MIME): structure, headers, text, composing; leaves storing and IMAP's forms to others."""

from __future__ import annotations

from .addresses import EnvAddress, parse_addresses
from .authresults import AuthMethod, AuthProp, AuthResults, BadAuthResults, parse_auth_results
from .charset import clean_text, decode_bytes, index_text
from .composer import Composer, MessageTooLarge, NameAddress, boundary, message_id
from .dates import format_date, parse_date
from .encodedwords import decode_header
from .errors import FromError, MessageError
from .facts import from_address, is_dsn, needs_smtputf8
from .headers import HeaderField, Parameterized, header_section, iter_headers, parse_parameterized, unfold
from .headerwriter import BadHeaderText, HeaderWriter
from .parser import ensure_part, parse
from .source import BytesSource, FileSource, Readable, Source, SubSource, as_source
from .structure import Envelope, Part
from .threads import MessageID, ThreadSubject, ids_in, message_id_canonical, referenced_ids, thread_subject
from .transfer import crlf_blocks, decode, decode_stream

__all__ = [
    "AuthMethod",
    "AuthProp",
    "AuthResults",
    "BadAuthResults",
    "BadHeaderText",
    "BytesSource",
    "Composer",
    "EnvAddress",
    "Envelope",
    "FileSource",
    "FromError",
    "HeaderField",
    "HeaderWriter",
    "MessageError",
    "MessageID",
    "MessageTooLarge",
    "NameAddress",
    "Parameterized",
    "Part",
    "Readable",
    "Source",
    "SubSource",
    "ThreadSubject",
    "as_source",
    "boundary",
    "clean_text",
    "crlf_blocks",
    "decode",
    "decode_bytes",
    "decode_header",
    "decode_stream",
    "ensure_part",
    "format_date",
    "from_address",
    "header_section",
    "ids_in",
    "index_text",
    "is_dsn",
    "iter_headers",
    "message_id",
    "message_id_canonical",
    "needs_smtputf8",
    "parse",
    "parse_addresses",
    "parse_auth_results",
    "parse_date",
    "parse_parameterized",
    "referenced_ids",
    "thread_subject",
    "unfold",
]
