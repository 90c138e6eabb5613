"""The TXT record of a selector (RFC 6376 section 3.6.1): reading it, and composing it for zone files and web forms."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from .errors import DkimError, ErrorKind
from .keys import PrivateKey, PublicKey, load_public_key, public_key_data
from .tags import decode_base64, decode_quoted_printable, encode_quoted_printable, parse_tags, split_list

VERSION: Final = "DKIM1"
MAX_RECORD: Final = 8 * 1024  # bytes; an RSA key of 8192 bits needs 1.5 KiB
TXT_STRING: Final = 255  # bytes of one string of a TXT record, RFC 1035 3.3
ZONE_WIDTH: Final = 100  # characters of one string where people copy it


@dataclass(frozen=True, slots=True)
class DkimRecord:
    """What a selector's TXT record says. An empty ``public_key`` says that the key is revoked."""

    public_key: bytes
    """RSA: SubjectPublicKeyInfo in DER, Ed25519: 32 bytes."""
    key_type: str = "rsa"
    hashes: tuple[str, ...] = ()
    """The only hashes allowed; empty: any."""
    services: tuple[str, ...] = ("*",)
    flags: tuple[str, ...] = ()
    """``y``: testing; ``s``: the domain of ``i=`` must be that of ``d=``."""
    notes: str = ""
    version: str = VERSION

    @classmethod
    def for_key(cls, key: PrivateKey | PublicKey, *, hashes: tuple[str, ...] = ("sha256",)) -> DkimRecord:
        """The record to publish for a key."""
        is_ed25519 = isinstance(key, Ed25519PrivateKey | Ed25519PublicKey)
        return cls(public_key_data(key), "ed25519" if is_ed25519 else "rsa", hashes)

    def service_allowed(self, name: str) -> bool:
        """Whether the key may be used for a service, such as "email"."""
        return any(service.lower() in ("*", name) for service in self.services)

    def key(self) -> PublicKey:
        """Raises DkimError: revoked, no key, unknown type, RSA of a bad size."""
        if not self.public_key:
            raise DkimError(ErrorKind.KEY_REVOKED, "key is revoked")
        return load_public_key(self.key_type, self.public_key)

    def compose(self) -> str:
        """The text of the record, values that are the default left out."""
        tags = [f"v={self.version}"]
        if self.hashes:
            tags.append(f"h={':'.join(self.hashes)}")
        if self.key_type != "rsa":
            tags.append(f"k={self.key_type}")
        if self.notes:
            tags.append(f"n={encode_quoted_printable(self.notes)}")
        if self.services not in ((), ("*",)):
            tags.append(f"s={':'.join(self.services)}")
        if self.flags:
            tags.append(f"t={':'.join(self.flags)}")
        tags.append(f"p={base64.b64encode(self.public_key).decode('ascii')}")
        return ";".join(tags)


class BadRecord(DkimError):
    """A TXT record cannot be read as that of a selector. ``claims_dkim``: it begins with v=DKIM1 all the same."""

    def __init__(self, text: str, *, claims_dkim: bool, kind: ErrorKind = ErrorKind.RECORD_SYNTAX) -> None:
        super().__init__(kind, text)
        self.claims_dkim = claims_dkim


def parse_record(txt: bytes) -> DkimRecord:
    """The record in the joined strings of a TXT record. Unknown tags are passed over. Raises BadRecord.

    The key itself is read by `DkimRecord.key`.
    """
    head = "".join(txt[:64].decode("utf-8", "replace").split())
    claims_dkim = head.startswith(f"v={VERSION}") and head[len(VERSION) + 2 :][:1] in ("", ";")
    if len(txt) > MAX_RECORD:
        raise BadRecord(f"record longer than {MAX_RECORD} bytes", claims_dkim=claims_dkim)
    try:
        return _parse(txt.decode("utf-8"))
    except UnicodeDecodeError as exc:
        raise BadRecord("record is not UTF-8", claims_dkim=claims_dkim) from exc
    except DkimError as exc:
        raise BadRecord(str(exc), claims_dkim=claims_dkim, kind=exc.kind) from exc


def txt_strings(text: str) -> list[str]:
    """The text of a record cut into the strings of at most 255 bytes that DNS has."""
    return [text[at : at + TXT_STRING] for at in range(0, len(text), TXT_STRING)]


def zone_text(text: str) -> str:
    """The text for a zone file: one quoted string, or several over as many lines in parentheses."""
    if len(text) <= ZONE_WIDTH:
        return f'"{text}"'
    pieces = [text[at : at + ZONE_WIDTH] for at in range(0, len(text), ZONE_WIDTH)]
    return "(\n" + "".join(f'\t"{piece}"\n' for piece in pieces) + ")"


def _parse(text: str) -> DkimRecord:
    kind = ErrorKind.RECORD_SYNTAX
    tags = parse_tags(text, kind)
    if "v" in tags and (next(iter(tags)) != "v" or tags["v"] != VERSION):
        raise DkimError(kind, f"v= must come first and be {VERSION}")
    if "p" not in tags:
        raise DkimError(kind, "p= is missing")
    return DkimRecord(
        public_key=decode_base64(tags["p"], kind, "p"),
        key_type=tags.get("k", "rsa").lower(),
        hashes=tuple(name.lower() for name in split_list(tags["h"])) if "h" in tags else (),
        services=split_list(tags["s"]) if "s" in tags else ("*",),
        flags=split_list(tags["t"]) if "t" in tags else (),
        notes=decode_quoted_printable(tags.get("n", "")),
    )
