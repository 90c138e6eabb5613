"""Header fields as the RFCs have them: RFC 5322 appendix A, 6532, tables of RFC 2047 and 2231, and the wild."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from typing import Final

import pytest

from protocols.message import (
    EnvAddress,
    Envelope,
    FromError,
    decode_header,
    ensure_part,
    from_address,
    parse,
    parse_addresses,
    parse_date,
    parse_parameterized,
)
from protocols.message.headers import joined_continuations


def mailbox(name: str, user: str, host: str, adl: str = "") -> tuple[str, str | None, str | None, str]:
    return (name, user, host, adl)


def group(name: str) -> tuple[str, str | None, str | None, str]:
    return ("", name, None, "")


END: Final = ("", None, None, "")
JOHN: Final = mailbox("John Doe", "jdoe", "machine.example")
MARY: Final = mailbox("Mary Smith", "mary", "example.net")
MORNING: Final = datetime(1997, 11, 21, 9, 55, 6, tzinfo=timezone(timedelta(hours=-6)))


@dataclass(frozen=True)
class Example:
    """A message of RFC 5322 appendix A, and what is in its fields."""

    text: str
    date: datetime | None = None
    subject: str = ""
    from_: tuple[object, ...] = ()
    sender: tuple[object, ...] = ()
    reply_to: tuple[object, ...] = ()
    to: tuple[object, ...] = ()
    cc: tuple[object, ...] = ()
    message_id: str = ""
    in_reply_to: str = ""


EXAMPLES: Final = {
    "A.1.1": Example(
        """\
From: John Doe <jdoe@machine.example>
To: Mary Smith <mary@example.net>
Subject: Saying Hello
Date: Fri, 21 Nov 1997 09:55:06 -0600
Message-ID: <1234@local.machine.example>

This is a message just to say hello.
So, "Hello".
""",
        MORNING,
        "Saying Hello",
        (JOHN,),
        (JOHN,),
        (JOHN,),
        (MARY,),
        message_id="<1234@local.machine.example>",
    ),
    "A.1.1 with a secretary": Example(
        """\
From: John Doe <jdoe@machine.example>
Sender: Michael Jones <mjones@machine.example>
To: Mary Smith <mary@example.net>
Subject: Saying Hello
Date: Fri, 21 Nov 1997 09:55:06 -0600
Message-ID: <1234@local.machine.example>

This is a message just to say hello.
""",
        MORNING,
        "Saying Hello",
        (JOHN,),
        (mailbox("Michael Jones", "mjones", "machine.example"),),
        (JOHN,),
        (MARY,),
        message_id="<1234@local.machine.example>",
    ),
    "A.1.2": Example(
        """\
From: "Joe Q. Public" <john.q.public@example.com>
To: Mary Smith <mary@x.test>, jdoe@example.org, Who? <one@y.test>
Cc: <boss@nil.test>, "Giant; \\"Big\\" Box" <sysservices@example.net>
Date: Tue, 1 Jul 2003 10:52:37 +0200
Message-ID: <5678.21-Nov-1997@example.com>

Hi everyone.
""",
        datetime(2003, 7, 1, 10, 52, 37, tzinfo=timezone(timedelta(hours=2))),
        "",
        (mailbox("Joe Q. Public", "john.q.public", "example.com"),),
        (mailbox("Joe Q. Public", "john.q.public", "example.com"),),
        (mailbox("Joe Q. Public", "john.q.public", "example.com"),),
        (mailbox("Mary Smith", "mary", "x.test"), mailbox("", "jdoe", "example.org"), mailbox("Who?", "one", "y.test")),
        (mailbox("", "boss", "nil.test"), mailbox('Giant; "Big" Box', "sysservices", "example.net")),
        message_id="<5678.21-Nov-1997@example.com>",
    ),
    "A.1.3": Example(
        """\
From: Pete <pete@silly.example>
To: A Group:Ed Jones <c@a.test>,joe@where.test,John <jdoe@one.test>;
Cc: Undisclosed recipients:;
Date: Thu, 13 Feb 1969 23:32:54 -0330
Message-ID: <testabcd.1234@silly.example>

Testing.
""",
        datetime(1969, 2, 13, 23, 32, 54, tzinfo=timezone(-timedelta(hours=3, minutes=30))),
        "",
        (mailbox("Pete", "pete", "silly.example"),),
        (mailbox("Pete", "pete", "silly.example"),),
        (mailbox("Pete", "pete", "silly.example"),),
        (
            group("A Group"),
            mailbox("Ed Jones", "c", "a.test"),
            mailbox("", "joe", "where.test"),
            mailbox("John", "jdoe", "one.test"),
            END,
        ),
        (group("Undisclosed recipients"), END),
        message_id="<testabcd.1234@silly.example>",
    ),
    "A.2": Example(
        """\
From: Mary Smith <mary@example.net>
To: John Doe <jdoe@machine.example>
Reply-To: "Mary Smith: Personal Account" <smith@home.example>
Subject: Re: Saying Hello
Date: Fri, 21 Nov 1997 10:01:10 -0600
Message-ID: <3456@example.net>
In-Reply-To: <1234@local.machine.example>
References: <1234@local.machine.example>

This is a reply to your hello.
""",
        MORNING.replace(hour=10, minute=1, second=10),
        "Re: Saying Hello",
        (MARY,),
        (MARY,),
        (mailbox("Mary Smith: Personal Account", "smith", "home.example"),),
        (JOHN,),
        message_id="<3456@example.net>",
        in_reply_to="<1234@local.machine.example>",
    ),
    "A.3": Example(
        """\
Resent-From: Mary Smith <mary@example.net>
Resent-To: Jane Brown <j-brown@other.example>
Resent-Date: Mon, 24 Nov 1997 14:22:01 -0800
Resent-Message-ID: <78910@example.net>
From: John Doe <jdoe@machine.example>
To: Mary Smith <mary@example.net>
Subject: Saying Hello
Date: Fri, 21 Nov 1997 09:55:06 -0600
Message-ID: <1234@local.machine.example>

This is a message just to say hello.
""",
        MORNING,
        "Saying Hello",
        (JOHN,),
        (JOHN,),
        (JOHN,),
        (MARY,),
        message_id="<1234@local.machine.example>",
    ),
    "A.4": Example(
        """\
Received: from x.y.test
   by example.net
   via TCP
   with ESMTP
   id ABC12345
   for <mary@example.net>;  21 Nov 1997 10:05:43 -0600
Received: from node.example by x.y.test; 21 Nov 1997 10:01:22 -0600
From: John Doe <jdoe@node.example>
To: Mary Smith <mary@example.net>
Subject: Saying Hello
Date: Fri, 21 Nov 1997 09:55:06 -0600
Message-ID: <1234@local.node.example>

This is a message just to say hello.
""",
        MORNING,
        "Saying Hello",
        *3 * ((mailbox("John Doe", "jdoe", "node.example"),),),
        (MARY,),
        message_id="<1234@local.node.example>",
    ),
    "A.5": Example(
        """\
From: Pete(A nice \\) chap) <pete(his account)@silly.test(his host)>
To:A Group(Some people)
     :Chris Jones <c@(Chris's host.)public.example>,
         joe@example.org,
  John <jdoe@one.test> (my dear friend); (the end of the group)
Cc:(Empty list)(start)Hidden recipients  :(nobody(that I know))  ;
Date: Thu,
      13
        Feb
          1969
      23:32
               -0330 (Newfoundland Time)
Message-ID:              <testabcd.1234@silly.test>

Testing.
""",
        datetime(1969, 2, 13, 23, 32, tzinfo=timezone(-timedelta(hours=3, minutes=30))),
        "",
        *3 * ((mailbox("Pete", "pete", "silly.test"),),),
        (
            group("A Group"),
            mailbox("Chris Jones", "c", "public.example"),
            mailbox("", "joe", "example.org"),
            mailbox("John", "jdoe", "one.test"),
            END,
        ),
        (group("Hidden recipients"), END),
        message_id="<testabcd.1234@silly.test>",
    ),
    "A.6.1": Example(
        """\
From: Joe Q. Public <john.q.public@example.com>
To: Mary Smith <@node.test:mary@example.net>, , jdoe@test  . example
Date: Tue, 1 Jul 2003 10:52:37 +0200
Message-ID: <5678.21-Nov-1997@example.com>

Hi everyone.
""",
        datetime(2003, 7, 1, 10, 52, 37, tzinfo=timezone(timedelta(hours=2))),
        "",
        *3 * ((mailbox("Joe Q. Public", "john.q.public", "example.com"),),),
        (mailbox("Mary Smith", "mary", "example.net", "@node.test"), mailbox("", "jdoe", "test.example")),
        message_id="<5678.21-Nov-1997@example.com>",
    ),
    "A.6.2": Example(
        """\
From: John Doe <jdoe@machine.example>
To: Mary Smith <mary@example.net>
Subject: Saying Hello
Date: 21 Nov 97 09:55:06 GMT
Message-ID: <1234@local.machine.example>

This is a message just to say hello.
""",
        datetime(1997, 11, 21, 9, 55, 6, tzinfo=UTC),
        "Saying Hello",
        (JOHN,),
        (JOHN,),
        (JOHN,),
        (MARY,),
        message_id="<1234@local.machine.example>",
    ),
    "A.6.3": Example(
        """\
From  : John Doe <jdoe@machine(comment).  example>
To    : Mary Smith
  \t
          <mary@example.net>
Subject     : Saying Hello
Date  : Fri, 21 Nov 1997 09(comment):   55  :  06 -0600
Message-ID  : <1234   @   local(blah)  .machine .example>

This is a message just to say hello.
""",
        MORNING,
        "Saying Hello",
        (JOHN,),
        (JOHN,),
        (JOHN,),
        (MARY,),
        message_id="<1234   @   local(blah)  .machine .example>",  # as sent: IMAP clients compare it so
    ),
}


def envelope(message: bytes) -> Envelope:
    found = parse(message).envelope
    assert found is not None
    return found


def plain(addresses: tuple[EnvAddress, ...]) -> tuple[object, ...]:
    return tuple((address.name, address.user, address.host, address.adl) for address in addresses)


@pytest.mark.parametrize("name", EXAMPLES)
def test_it_reads_the_messages_of_rfc_5322_appendix_a(name: str) -> None:
    example = EXAMPLES[name]
    found = envelope(example.text.replace("\n", "\r\n").encode())
    assert parse_date(found.date) == example.date
    assert found.subject == example.subject
    assert plain(found.from_) == example.from_
    assert plain(found.sender or found.from_) == example.sender
    assert plain(found.reply_to or found.from_) == example.reply_to
    assert plain(found.to) == example.to
    assert plain(found.cc) == example.cc
    assert found.message_id == example.message_id
    assert found.in_reply_to == example.in_reply_to


def test_no_example_of_appendix_a_is_missing() -> None:
    print(f"RFC 5322 appendix A: {len(EXAMPLES)} messages")
    assert len(EXAMPLES) == 11


# Addresses of the wild, and of RFC 6532.


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("Jøran Øygårdvær <jøran@blåbærsyltetøy.example>", [("Jøran Øygårdvær", "jøran", "blåbærsyltetøy.example")]),
        ("=?utf-8?q?J=C3=B6rg?= <j@example.org>", [("Jörg", "j", "example.org")]),
        ("=?utf-8?q?a=2C?= =?utf-8?q?b?= <j@example.org>", [("a,b", "j", "example.org")]),
        ("=?utf-8?q?Smith, Jan?= <j@example.org>", [("Smith, Jan", "j", "example.org")]),  # not allowed, but sent
        ('"=?utf-8?q?J=C3=B6rg?=" <j@example.org>', [("Jörg", "j", "example.org")]),  # nor this
        ("j@example.org (Jan (de Man))", [("Jan (de Man)", "j", "example.org")]),
        ('"a b"@example.org', [("", "a b", "example.org")]),
        ('"<x@evil.example>" <j@example.org>', [("<x@evil.example>", "j", "example.org")]),
        ("x@evil.example <j@example.org>", [("x@evil.example", "j", "example.org")]),
        ("j@[192.0.2.1]", [("", "j", "[192.0.2.1]")]),
        ("<j@[IPv6:2001:db8::1]>", [("", "j", "[IPv6:2001:db8::1]")]),
        ("a@example.org b@example.org", [("", "a@example.orgb", "example.org")]),
        ("<a@example.org> <b@example.org>", [("", "a", "example.org"), ("", "b", "example.org")]),
        ("<a@example.org", [("", "a", "example.org")]),
        ("a, b@example.org", [("a", "", ""), ("", "b", "example.org")]),
        ("undisclosed", [("undisclosed", "", "")]),
        ("<>", [("", "", "")]),
        ("<root>, Cron <daemon>", [("", "root", ""), ("Cron", "daemon", "")]),  # of programs on one machine
        ('"unclosed <a@example.org>', [("unclosed <a@example.org>", "", "")]),
        ("(unclosed a@example.org", []),
        ("", []),
        (",,;,", []),
        ("a\0b@example.org", [("", "ab", "example.org")]),
    ],
)
def test_it_reads_addresses(value: str, expected: list[tuple[str, str, str]]) -> None:
    found = parse_addresses(value.encode())
    assert [(address.name, address.user, address.host) for address in found] == expected


def test_a_list_of_addresses_has_an_end() -> None:
    assert len(parse_addresses(b"a@example.org," * 20_000)) == 10_000
    assert len(envelope(b"To: a@example.org, b@example.org\r\n" * 4_000 + b"\r\n").to) == 8_000
    fields = b"".join(b"To: " + b"\r\n ".join([b"a@b," * 1_000] * 5) + b"\r\n" for _ in range(3))
    assert len(envelope(fields + b"\r\n").to) == 10_000


@pytest.mark.parametrize(
    ("header", "error"),
    [
        (b"To: a@example.org", "missing From header"),
        (b"From: a@example.org\r\nFROM: b@example.org", "2 From headers, must be one"),
        (b"From: a@example.org, b@example.org", "From header has 2 addresses, must be one"),
        (b"From: g:a@example.org;", "From header holds a group"),
        (b"From: nobody", "From header has no valid address"),
        (b"From: a@example..org", "From header: invalid email address: domain: empty label"),
        (b"From:", "From header has 0 addresses, must be one"),
    ],
)
def test_a_message_has_one_author(header: bytes, error: str) -> None:
    with pytest.raises(FromError, match=error):
        from_address(ensure_part(header + b"\r\n\r\n")[0])


def test_a_name_that_looks_like_an_address_is_not_the_author() -> None:
    part, _ = ensure_part(b'From: "bank@bank.example" <x@evil.example>\r\n\r\n')
    assert str(from_address(part)) == "x@evil.example"


# Dates.


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Mon, 3 Mar 2031 09:12:44 +0000", "2031-03-03T09:12:44+00:00"),
        ("3 Mar 2031 09:12 -0130", "2031-03-03T09:12:00-01:30"),
        ("Mon, 03 Mar 2031 09:12:44 EST", "2031-03-03T09:12:44-05:00"),
        ("3 Mar 31 09:12:44 PDT", "2031-03-03T09:12:44-07:00"),
        ("3 Mar 97 09:12:44 UT", "1997-03-03T09:12:44+00:00"),
        ("3 Mar 103 09:12:44 Z", "2003-03-03T09:12:44+00:00"),
        ("3 Mar 2031 09:12:44 A", "2031-03-03T09:12:44+00:00"),  # military zones mean nothing (RFC 5322 4.3)
        ("3 Mar 2031 09:12:44", "2031-03-03T09:12:44+00:00"),
        ("3-Mar-2031 09:12:44 +0100", "2031-03-03T09:12:44+01:00"),
        ("3 March 2031 09.12.44 +0100", "2031-03-03T09:12:44+01:00"),
        ("3 Mar 2031 23:59:60 +0000", "2031-03-03T23:59:59+00:00"),
        ("Mon,3 Mar 2031 09:12:44 (a (b) c) +0000 (d)", "2031-03-03T09:12:44+00:00"),
        ("3 Mar 2031 09:12:44 +2400", "2031-03-02T09:12:44+00:00"),
        ("31 Dec 9999 23:00:00 -9900", None),
        ("3 Mar 10000 09:12:44 +0000", None),
        ("30 Feb 2031 09:12:44 +0000", None),
        ("3 Foo 2031 09:12:44 +0000", None),
        ("3 Mar 2031 24:00:00 +0000", None),
        ("3 Mar 2031 9h", None),
        ("٣ Mar 2031 09:12:44 +0000", None),
        ("today", None),
        ("", None),
        ("Mon,", None),
    ],
)
def test_it_reads_dates(text: str, expected: str | None) -> None:
    moment = parse_date(text)
    assert (moment.isoformat() if moment else None) == expected


# Encoded words.

RFC_2047_SECTION_8: Final = [
    ("=?ISO-8859-1?Q?a?=", "a"),
    ("=?ISO-8859-1?Q?a?= b", "a b"),
    ("=?ISO-8859-1?Q?a?= =?ISO-8859-1?Q?b?=", "ab"),
    ("=?ISO-8859-1?Q?a?=  =?ISO-8859-1?Q?b?=", "ab"),
    ("=?ISO-8859-1?Q?a?=\r\n    =?ISO-8859-1?Q?b?=", "ab"),
    ("=?ISO-8859-1?Q?a_b?=", "a b"),
    ("=?ISO-8859-1?Q?a?= =?ISO-8859-2?Q?_b?=", "a b"),
    ("=?US-ASCII?Q?Keith_Moore?= <moore@cs.utk.edu>", "Keith Moore <moore@cs.utk.edu>"),
    ("=?ISO-8859-1?Q?Keld_J=F8rn_Simonsen?= <keld@dkuug.dk>", "Keld Jørn Simonsen <keld@dkuug.dk>"),
    ("=?ISO-8859-1?Q?Andr=E9?= Pirard <PIRARD@vm1.ulg.ac.be>", "André Pirard <PIRARD@vm1.ulg.ac.be>"),
    (
        "=?ISO-8859-1?B?SWYgeW91IGNhbiByZWFkIHRoaXMgeW8=?=\r\n =?ISO-8859-2?B?dSB1bmRlcnN0YW5kIHRoZSBleGFtcGxlLg==?=",
        "If you can read this you understand the example.",
    ),
    ("=?ISO-8859-1?Q?Olle_J=E4rnefors?= <ojarnef@admin.kth.se>", "Olle Järnefors <ojarnef@admin.kth.se>"),
    ("=?ISO-8859-1?Q?Patrik_F=E4ltstr=F6m?= <paf@nada.kth.se>", "Patrik Fältström <paf@nada.kth.se>"),
    ("=?iso-8859-8?b?7eXs+SDv4SDp7Oj08A==?=", "םולש ןב ילטפנ"),
]
WILD_WORDS: Final = [
    ("=?utf-8?q?a=C3?= =?utf-8?q?=A9?=", "aé"),  # a character in two words
    ("=?utf-8*en?q?a?=", "a"),  # RFC 2231 section 5
    ("=?UTF-8?B?w6k?=", "é"),  # no padding
    ("x=?utf-8?q?a?=y", "xay"),
    ("=?utf-8?q?a b?=", "a b"),
    ("=?utf-8?q?a=0D=0AX:_b?=", "a X: b"),  # no way to another field
    ("=?utf-8?q?=00?=", ""),
    ("=?utf-8?x?a?=", "=?utf-8?x?a?="),
    ("=?utf-8?q?a", "=?utf-8?q?a"),
    ("=?no-such-charset?q?=E9?=", "é"),
    ("=?utf-8?q?=E9?=", "\ufffd"),
    ("=?utf-8?q?=ZZ?=", "=ZZ"),
    ("=?gb2312?b?yta7+g==?=", "手机"),
    ("=?iso-2022-jp?b?GyRCRnxLXBsoQg==?=", "日本"),
    ("=?ks_c_5601-1987?b?x9GxuQ==?=", "한국"),
    ("=?iso-8859-1?q?=80?=", "€"),  # what Windows means by it
    ("grüße", "grüße"),
]


@pytest.mark.parametrize(("raw", "text"), RFC_2047_SECTION_8 + WILD_WORDS)
def test_it_reads_encoded_words(raw: str, text: str) -> None:
    assert decode_header(raw.encode()) == text


# Parameters.

CONTINUED: Final = """\
application/x-stuff;
 title*0*=us-ascii'en'This%20is%20even%20more%20;
 title*1*=%2A%2A%2Afun%2A%2A%2A%20;
 title*2="isn't it!"
"""
RFC_2231: Final = [
    (
        'message/external-body; access-type=URL;\r\n URL*0="ftp://";\r\n URL*1="cs.utk.edu/pub/moore/bulk-mailer.tar"',
        {"access-type": "URL", "url": "ftp://cs.utk.edu/pub/moore/bulk-mailer.tar"},
    ),
    (
        "application/x-stuff;\r\n title*=us-ascii'en-us'This%20is%20%2A%2A%2Afun%2A%2A%2A",
        {"title": "This is ***fun***"},
    ),
    (CONTINUED.strip().replace("\n", "\r\n"), {"title": "This is even more ***fun*** isn't it!"}),
]
WILD_PARAMETERS: Final = [
    ("a/b; name*1=b; name*0=a", {"name": "ab"}),
    ("a/b; name*0=a; name*2=c", {"name": "a"}),
    ("a/b; name=plain; name*=utf-8''%C3%A9", {"name": "é"}),
    ("a/b; name*=utf-8''%C3", {"name": "\ufffd"}),
    ("a/b; name*=%C3%A9", {"name": "é"}),
    ("a/b; name=a; name=b", {"name": "a"}),
    ('a/b; name="=?utf-8?q?=C3=A9?="', {"name": "é"}),
    ('a/b; name="a;b\\"c" (d;e); x=y', {"name": 'a;b"c', "x": "y"}),
    ("a/b; name=a b.txt", {"name": "a b.txt"}),
    ("a/b; NAME=a", {"name": "a"}),
    ("a/b; name", {}),
    ("a/b; =a;;", {}),
    ('a/b; name="unclosed', {"name": "unclosed"}),
    ('a/b; name="a\r\n b"', {"name": "a b"}),
    ("a/b; name*99999=a", {"name*99999": "a"}),
]


@pytest.mark.parametrize(
    ("raw", "joined"),
    [
        ([("NAME", b"a"), ("X", b"b")], [("NAME", b"a"), ("X", b"b")]),
        ([("URL*0", b"ftp://"), ("X", b""), ("URL*1", b"host/")], [("URL", b"ftp://host/"), ("X", b"")]),
        ([("T*1", b"two"), ("T*0", b"one ")], [("T", b"one two")]),
        ([("T*0*", b"us-ascii'en'%2A"), ("T*1*", b"%2A"), ("T*2", b"a b%")], [("T*", b"us-ascii'en'%2A%2Aa%20b%25")]),
        ([("T*0", b"a"), ("T*1*", b"%20b")], [("T", b"a b")]),
        ([("T*0", b"a"), ("T*2", b"c")], [("T", b"a"), ("T*2", b"c")]),
        ([("T*1", b"b")], [("T*1", b"b")]),
        ([("T*0", b"a"), ("T*0", b"b"), ("*0", b"c")], [("T", b"a"), ("T*0", b"b"), ("*0", b"c")]),
    ],
)
def test_it_joins_continuations(raw: list[tuple[str, bytes]], joined: list[tuple[str, bytes]]) -> None:
    """RFC 2231 section 6: what IMAP servers tell of parameters."""
    assert list(joined_continuations(raw)) == joined


@pytest.mark.parametrize(("value", "params"), RFC_2231 + WILD_PARAMETERS)
def test_it_reads_parameters(value: str, params: dict[str, str]) -> None:
    found = parse_parameterized(value.replace("\r\n", "").encode())
    assert found.value.decode() == value.partition(";")[0]
    assert found.params == params


def test_how_many_examples_there_are() -> None:
    print(f"RFC 2047 section 8: {len(RFC_2047_SECTION_8)}, RFC 2231: {len(RFC_2231)}")
    assert (len(RFC_2047_SECTION_8), len(RFC_2231)) == (14, 3)
