"""Messages of every shape that mail has, made by rule: the same number always gives the same message.

    for mail in varied.mails(300):
        mail.name, mail.data        # "017 group encoded-word qp nested", bytes with CRLF

A name says what is special about its message, so that an answer which is not like others' can be told apart by it.
"""

from __future__ import annotations

import base64
import quopri
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

FILES: Final = (Path(__file__).parent / "messages", Path(__file__).parents[2] / "unit" / "messages")

WORDS: Final = ("lorem", "ipsum", "dolor", "sit", "amet", "consectetur", "adipiscing", "elit", "sed", "do", "needle")

# What is special, and how the field reads then. "" is the field without anything special.
ADDRESSES: Final = {
    "": 'Ann Example <ann@example.org>, "Bob B." <bob@example.com>',
    "bare-address": "ann@example.org",
    "comma-name": '"Example, Ann \\"A\\"" <ann@example.org>',
    "encoded-name": "=?utf-8?q?J=C3=BCrgen_M=C3=BCller?= <jm@example.org>, =?iso-8859-1?b?SvxyZ2Vu?= <j2@example.org>",
    "group": "A Group: ann@example.org, Bob <bob@example.com>;, carl@example.net",
    "empty-group": "undisclosed-recipients:;",
    "route": "Ann <@relay.example,@hub.example:ann@example.org>",
    "old-comment": "ann@example.org (Ann Example)",
    "comments": "(before) Ann (middle) Example <ann@(inside)example.org> (after)",
    "empty-angle": "<>",
    "local-only": "root, <daemon>",
    "quoted-localpart": '"ann b"@example.org, "x@y"@example.org',
    "domain-literal": "ann@[192.0.2.1], bob@[IPv6:2001:db8::1]",
    "raw-8bit": "J\xfcrgen <j@example.org>",
    "raw-utf8": "J\u00fcrgen <j\u00fcrgen@ex\u00e4mple.org>",
    "trailing-comma": "ann@example.org, bob@example.com,",
    "empty-members": "ann@example.org,, ,bob@example.com",
    "folded-addresses": "Ann Example\r\n <ann@example.org>,\r\n\tBob\r\n <bob@example.com>",
    "many-addresses": ",\r\n ".join(f"Person {n} <p{n}@example.org>" for n in range(40)),
    "not-an-address": "not an address at all",
    "unclosed-angle": "Ann <ann@example.org",
    "dots-in-name": "Dr. Ann E. Example <ann.e.@example.org>",
    "spaces-in-address": "Ann < ann @ example . org >",
    "empty-field": "",
    "missing": None,
}
DATES: Final = {
    "": "Tue, 5 Mar 2024 10:11:12 +0100",
    "no-weekday": "5 Mar 2024 10:11:12 -0500",
    "zone-name": "Tue, 05 Mar 2024 23:59:59 EST",
    "date-comment": "Tue, 5 Mar 2024 10:11:12 +0000 (UTC)",
    "no-seconds": "Fri, 1 Dec 2023 00:00 +0000",
    "two-digit-year": "Mon, 1 Jan 96 12:00:00 GMT",
    "garbage-date": "yesterday, around noon",
    "odd-date": "Thu,  29  feb  2024 1:02:03 +0530",
    "folded-date": "Wed,\r\n 28 Feb 2024\r\n 20:00:00 +0200",
    "no-date": None,
    "far-date": "Sat, 31 Dec 2039 23:59:59 -1200",
}
SUBJECTS: Final = {
    "": "A plain subject with a needle",
    "encoded-subject": "=?utf-8?q?Gr=C3=BC=C3=9Fe?= =?utf-8?b?IHVuZCBoZXJ6bGljaA==?= needle",
    "folded-subject": "a subject\r\n\tthat goes on\r\n  and on",
    "empty-subject": "",
    "no-subject": None,
    "8bit-subject": "Gr\xfc\xdfe",
    "utf8-subject": "Gr\u00fc\u00dfe \u65e5\u672c\u8a9e",
    "quoted-subject": 'with "quotes" and \\backslashes\\',
    "long-subject": "long " * 300,
    "spaces-subject": "   spaces   around\tand tabs   ",
    "encoded-odd": "=?x-unknown?q?abc?= =?utf-8?x?abc?= =?utf-8?b?!!!?= =?utf-8*en?q?lang?=",
}
IDS: Final = {
    "": "<{n}.abc@example.org>",
    "no-id": None,
    "bare-id": "{n}.abc@example.org",
    "folded-id": "\r\n <{n}.abc@example.org>",
    "id-comment": "<{n}.abc@example.org> (added by hand)",
    "long-id": "<{n}." + "a" * 900 + "@example.org>",
}
REFERENCES: Final = {
    "": None,
    "one-reply": "<parent@example.org>",
    "two-replies": "<p1@example.org> <p2@example.org>",
    "reply-comment": "Your message of yesterday <parent@example.org>",
    "folded-reply": "<p1@example.org>\r\n\t<p2@example.org>",
}
PARAMETERS: Final = {
    "": 'name="file.txt"',
    "rfc2231": "name*=utf-8''na%C3%AFve%20file.txt",
    "continued": 'name*0="a long "; name*1="name.txt"',
    "rfc2231-continued": "name*0*=utf-8'en'na%C3%AF; name*1*=ve%20; name*2=\"file.txt\"",
    "encoded-parameter": 'name="=?utf-8?q?na=C3=AFve.txt?="',
    "unquoted-parameter": "name=file.txt; x-other=1",
    "quotes-in-parameter": 'name="a \\"quoted\\" name"; empty=""',
    "parameter-comment": 'name="file.txt" (a comment)',
    "parameter-spaces": 'name = "file.txt" ; x = y',
}
DISPOSITIONS: Final = {
    "": None,
    "attachment": 'attachment; filename="file.txt"; size=123',
    "inline": "inline",
    "attachment-2231": "attachment; filename*=utf-8''%E2%82%AC.txt",
    "odd-disposition": "X-Strange; filename=a.b",
}


@dataclass(frozen=True, slots=True)
class Mail:
    """A message; its name is a number or a file's name, and what is special about it."""

    name: str
    data: bytes


def mails(count: int) -> Iterator[Mail]:
    """So many made by rule, and before them those of the folders of messages."""
    for folder in FILES:
        for path in sorted(folder.glob("*.eml")):
            data = path.read_bytes().replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
            yield Mail(f"{folder.parent.name}/{path.stem}", data)
    for number, (name, data) in enumerate(PECULIAR.items()):
        yield Mail(f"peculiar{number:02} {name}", data)
    for number in range(count):
        yield _Maker(number).mail()


class _Maker:
    """Makes one message; what is special about it is noted on the way."""

    def __init__(self, number: int) -> None:
        self._number = number
        self._random = random.Random(f"varied {number}")
        self._special: list[str] = []
        self._parts = 0

    def mail(self) -> Mail:
        header = self._header()
        content = self._entity(0)
        return Mail(f"{self._number:03} {' '.join(dict.fromkeys(self._special))}".strip(), header + content)

    # The header. Most fields are ordinary, or no message would show what one alone does.

    def _header(self) -> bytes:
        fields = [
            ("Received", "from a.example by b.example with ESMTP id 1;\r\n\tTue, 5 Mar 2024 10:11:13 +0100"),
            ("Date", self._one(DATES, 0.5)),
            ("From", self._one(ADDRESSES, 0.4)),
            ("Sender", self._one(ADDRESSES, 0.7) if self._chance(0.2) else None),
            ("Reply-To", self._one(ADDRESSES, 0.4) if self._chance(0.2) else None),
            ("To", self._one(ADDRESSES, 0.6)),
            ("Cc", self._one(ADDRESSES, 0.6) if self._chance(0.4) else None),
            ("Bcc", self._one(ADDRESSES, 0.6) if self._chance(0.15) else None),
            ("Subject", self._one(SUBJECTS, 0.5)),
            ("Message-ID", self._one(IDS, 0.3)),
            ("In-Reply-To", self._one(REFERENCES, 0.5)),
            ("X-Number", str(self._number)),
        ]
        if self._chance(0.3):
            self._random.shuffle(fields)
        if self._chance(0.1):
            fields.append(("X-Long", "x" * 3000))
        lines = [f"{self._case(name)}: {value}\r\n" for name, value in fields if value is not None]
        return (
            "".join(lines)
            .replace("{n}", str(self._number))
            .encode("utf-8" if self._chance(0.7) else "latin-1", "replace")
        )

    def _case(self, name: str) -> str:
        return name.upper() if self._chance(0.05) else name.lower() if self._chance(0.05) else name

    # Bodies: fields of the content, the empty line, and the content.

    def _entity(self, depth: int) -> bytes:
        self._parts += 1
        kinds: list[tuple[int, Callable[[int], bytes]]] = [(10, self._text), (3, self._binary), (1, self._without_type)]
        if depth < 4 and self._parts < 15:
            kinds += [(9 if depth == 0 else 3, self._multipart), (2, self._message)]
        chosen = self._random.choices([make for _, make in kinds], [weight for weight, _ in kinds])[0]
        return chosen(depth)

    def _text(self, depth: int) -> bytes:
        subtype = self._random.choice(["plain", "plain", "html", "PLAIN", "x-odd", "calendar"])
        charset = self._random.choice(["; charset=utf-8", '; charset="us-ascii"', "; charset=iso-8859-1", ""])
        return self._leaf(f"text/{subtype}{charset}", self._words(), depth)

    def _binary(self, depth: int) -> bytes:
        kind = self._random.choice(["application/octet-stream", "image/png", "application/pdf", "audio/x-odd"])
        data = self._random.randbytes(self._random.choice([0, 1, 100, 3000])).replace(b"\0", b"0").replace(b"\n", b".")
        return self._leaf(kind, data.replace(b"\r", b"."), depth, parameters=True)

    def _without_type(self, depth: int) -> bytes:
        self._note("no-type")
        return b"\r\n" + self._words()

    def _leaf(self, kind: str, data: bytes, depth: int, *, parameters: bool = False) -> bytes:
        fields = [f"Content-Type: {kind}" + ("; " + str(self._one(PARAMETERS, 0.6)) if parameters else "")]
        encoding = self._random.choice(["7bit", "8bit", "quoted-printable", "base64", "binary", ""])
        match encoding:
            case "quoted-printable":
                data = quopri.encodestring(data.replace(b"\r\n", b"\n")).replace(b"\n", b"\r\n")
            case "base64":
                data = base64.encodebytes(data).replace(b"\n", b"\r\n")
        if encoding:
            fields.append(f"Content-Transfer-Encoding: {encoding.upper() if self._chance(0.2) else encoding}")
        fields += self._other_fields()
        if self._chance(0.1):
            self._note("empty-part")
            data = b""
        elif depth and self._chance(0.2):
            data = data.removesuffix(b"\r\n")
        return "\r\n".join(fields).encode() + b"\r\n\r\n" + data

    def _other_fields(self) -> list[str]:
        fields = []
        if (disposition := self._one(DISPOSITIONS, 0.4)) is not None:
            fields.append(f"Content-Disposition: {disposition}")
        if self._chance(0.15):
            fields.append(f"Content-ID: <part{self._number}@example.org>")
        if self._chance(0.15):
            fields.append("Content-Description: a part that is described\r\n in two lines")
        if self._chance(0.1):
            fields.append("Content-Language: " + self._random.choice(["en", "de, en", "i-klingon"]))
        if self._chance(0.1):
            fields.append("Content-MD5: Q2hlY2sgSW50ZWdyaXR5IQ==")
        if self._chance(0.1):
            fields.append("Content-Location: https://example.org/a/b?c=d")
        return fields

    def _multipart(self, depth: int) -> bytes:
        subtype = self._random.choice(["mixed", "alternative", "related", "digest", "signed", "x-odd"])
        boundary = self._random.choice(
            [f"b{self._number}-{self._parts}", f"=_{self._parts}.x'y", f"b o u n d {self._parts}"]
        )
        written = f'"{boundary}"' if not boundary.isalnum() else boundary
        extra = self._random.choice(["", "", '; type="text/html"', "; charset=utf-8"])
        parts = [self._part(depth, subtype) for _ in range(self._random.randint(1, 4))]
        if self._chance(0.05):
            self._note("empty-multipart")
            parts = []
        body = b"A preamble.\r\n" if self._chance(0.5) else b""
        for part in parts:
            body += f"--{boundary}{' ' if self._chance(0.03) else ''}\r\n".encode() + part + b"\r\n"
        if self._chance(0.08):
            self._note("unclosed")
        else:
            body += f"--{boundary}--".encode() + self._random.choice([b"\r\n", b"", b"\r\nAn epilogue.\r\n"])
        fields = [f"Content-Type: multipart/{subtype}; boundary={written}{extra}", *self._other_fields()]
        if self._chance(0.3):
            fields.insert(0, "MIME-Version: 1.0")
        return "\r\n".join(fields).encode() + b"\r\n\r\n" + body

    def _part(self, depth: int, subtype: str) -> bytes:
        if subtype == "digest" and self._chance(0.8):
            self._note("digest")
            return b"\r\n" + self._header() + self._entity(depth + 1)
        if self._chance(0.05):
            self._note("no-header")
            return b"\r\njust text"
        return self._entity(depth + 1)

    def _message(self, depth: int) -> bytes:
        inner = self._header() + self._entity(depth + 1)
        return "\r\n".join(["Content-Type: message/rfc822", *self._other_fields()]).encode() + b"\r\n\r\n" + inner

    def _words(self) -> bytes:
        count = self._random.choice([0, 1, 10, 60, 400])
        words = [self._random.choice(WORDS) for _ in range(count)]
        if self._chance(0.2):
            words.append("gr\u00fc\u00dfe")
        if self._chance(0.05):
            words.append("y" * 2000)
        lines = [" ".join(words[at : at + 12]) for at in range(0, len(words), 12)]
        return ("\r\n".join(lines) + ("\r\n" if self._chance(0.8) else "")).encode()

    def _one(self, choices: Mapping[str, str | None], ordinary: float) -> str | None:
        if self._chance(ordinary):
            return choices[""]
        name = self._random.choice([*choices])
        self._note(name)
        return choices[name]

    def _note(self, special: str) -> None:
        if special:
            self._special.append(special)

    def _chance(self, probability: float) -> bool:
        return self._random.random() < probability


def _lines(text: str) -> bytes:
    return text.replace("\n", "\r\n").encode("latin-1")


_TYPE: Final = "Content-Type: "
_MIXED: Final = "Content-Type: multipart/mixed; boundary="

# One message each for what is broken, or unusual, as a whole.
PECULIAR: Final = {
    "no header": _lines("\nonly a body\n"),
    "only a header": _lines("Subject: only a header\n"),
    "header without an empty line": _lines("Subject: no empty line"),
    "header and empty line": _lines("Subject: no body\n\n"),
    "header that is none": _lines("this is no header\n\nbody\n"),
    "from line": _lines("From someone Tue Mar  5 10:11:12 2024\nSubject: mbox\n\nbody\n"),
    "repeated fields": _lines(
        "From: a@example.org\nFrom: b@example.org\nTo: c@example.org\nTo: d@example.org\nSubject: one\nSubject: two\n"
        "Date: Tue, 5 Mar 2024 10:11:12 +0100\nDate: Wed, 6 Mar 2024 10:11:12 +0100\n\nbody\n"
    ),
    "space before colon": _lines("Subject : spaced\nFrom : a@example.org\n\nbody\n"),
    "bare lf": b"Subject: bare\nFrom: a@example.org\n\nline\nline\r\nline\n",
    "boundary is a prefix": _lines(_MIXED + "b\n\n--b\n\none\n--bb\nnot a part\n--b\n\ntwo\n--b--\n"),
    "no boundary": _lines(_TYPE + "multipart/mixed\n\n--b\n\none\n--b--\n"),
    "boundary that does not occur": _lines(_MIXED + "zzz\n\n--b\n\none\n"),
    "inner boundary equals outer": _lines(_MIXED + "b\n\n--b\n" + _MIXED + "b\n\n--b\n\none\n--b--\n--b--\n"),
    "inner unclosed": _lines(_MIXED + "o\n\n--o\n" + _MIXED + "i\n\n--i\n\none\n--o\n\ntwo\n--o--\n"),
    "encoded message": _lines(
        _TYPE + "message/rfc822\nContent-Transfer-Encoding: base64\n\nU3ViamVjdDogaW5zaWRlDQoNCmlubmVyIGJvZHkNCg==\n"
    ),
    "type without subtype": _lines(_TYPE + "text\n\nbody\n"),
    "type that is none": _lines(_TYPE + ";;;\n\nbody\n"),
    "type in comments": _lines(_TYPE + "(c) text (d) / (e) html (f); (g) charset (h) = (i) utf-8\n\nbody\n"),
    "folded type": _lines("Content-Type:\n text/html;\n\tcharset=utf-8\n\n<p>body</p>\n"),
    "unknown encoding": _lines(_TYPE + "text/plain\nContent-Transfer-Encoding: x-rot13\n\nobql\n"),
    "global message": _lines(_TYPE + "message/global\n\nSubject: inside\n\ninner\n"),
    "partial message": _lines(_TYPE + "message/partial; number=1; total=2; id=x\n\nSubject: inside\n\ninner\n"),
    "external body": _lines(
        _TYPE + 'message/external-body; access-type=URL; URL="https://example.org/"\n\n' + _TYPE + "image/png\n\n\n"
    ),
    "delivery status": _lines(
        _TYPE + "multipart/report; report-type=delivery-status; boundary=r\n\n--r\n\ntext\n--r\n"
        "Content-Type: message/delivery-status\n\nReporting-MTA: dns; a\n\nFinal-Recipient: rfc822; b@c\n--r\n"
        "Content-Type: message/rfc822\n\nSubject: lost\n\n--r--\n"
    ),
    "long line": b"Subject: long line\r\n\r\n" + b"z" * 70_000 + b"\r\n",
    "many fields": b"".join(b"X-Field-%d: value %d\r\n" % (n, n) for n in range(800)) + b"\r\nbody\r\n",
    "deep": b"".join(b'Content-Type: multipart/mixed; boundary="d%d"\r\n\r\n--d%d\r\n' % (n, n) for n in range(12))
    + b"\r\ndeep\r\n"
    + b"".join(b"--d%d--\r\n" % n for n in reversed(range(12))),
    "many parts": b"Content-Type: multipart/mixed; boundary=m\r\n"
    + b"".join(b"\r\n--m\r\n\r\npart %d" % n for n in range(40))
    + b"\r\n--m--\r\n",
    "large": b"Subject: large\r\nContent-Type: application/octet-stream\r\nContent-Transfer-Encoding: base64\r\n\r\n"
    + base64.encodebytes(bytes(range(256)) * 600).replace(b"\n", b"\r\n"),
}
