"""IMAP: commands with their arguments, mailbox names, patterns."""

from __future__ import annotations

import contextlib

from imap import mutf7
from imap.answers import Bad, Bye, Refused
from imap.commands import COMMANDS
from imap.patterns import BadPattern, Patterns
from imap.syntax import BadSyntax, LiteralNeeded, Parser, announced_literal
from protocols.mailboxnames import NAME_MAX

from .targets import Target

LONGEST_COMMAND = 128 * 1024  # bytes of lines


def command(data: bytes) -> None:
    """Lines that announce literals are followed by them: here each takes the line after it."""
    first, *lines = data.split(b"\r\n")
    parser = Parser(first)
    try:
        parser.tag()
        parser.space()
        entry = COMMANDS.get(parser.command_name())
        if entry is None:
            return
        parser.mark()
        while True:
            try:
                entry.parse(parser)
                return
            except LiteralNeeded:
                assert announced_literal(parser.lines[-1]) is not None
                if len(lines) < 2:
                    return
                parser.add_literal(lines.pop(0))
                parser.add_line(lines.pop(0))
                parser.restart()
    except (BadSyntax, Bad, Refused, Bye) as exc:
        refusal = str(exc)
    assert refusal.isprintable(), refusal  # it goes into one line of an answer


def mailbox_name(data: bytes) -> None:
    with contextlib.suppress(mutf7.BadName):
        assert mutf7.encode(mutf7.decode(data)) == data
    text = data.decode("utf-8", "replace")
    assert mutf7.decode(mutf7.encode(text)) == text


def patterns(data: bytes) -> None:
    texts = data.decode("utf-8", "replace").split("\n")
    with contextlib.suppress(BadPattern):
        matcher = Patterns(texts)
        matcher.matches("Inbox")
        matcher.matches(texts[0][:NAME_MAX])
        if not {"*", "%"} & set(texts[0]):
            assert matcher.matches(texts[0]) or texts[0][:5].lower() == "inbox"


SEEDS = [
    b"a LOGIN {3}\r\njan\r\n {3+}\r\npwd\r\n",
    b"a AUTHENTICATE PLAIN AGEAYg==",
    b'a ID ("name" "x" "version" NIL)',
    b"a ENABLE IMAP4rev2 CONDSTORE UTF8=ACCEPT",
    b"a SELECT Inbox (QRESYNC (67890007 90060115194045000 41:211,214:541 (1:2 3:4)) CONDSTORE)",
    b"a CREATE {7}\r\nArchive\r\n",
    b'a RENAME "a b" c',
    b'a LIST (SUBSCRIBED RECURSIVEMATCH) "" ("a*" %) RETURN (CHILDREN STATUS (MESSAGES UNSEEN))',
    b"a STATUS Inbox (MESSAGES UIDNEXT UIDVALIDITY UNSEEN DELETED SIZE HIGHESTMODSEQ)",
    b'a APPEND Inbox (\\Seen custom) " 1-Feb-2024 10:20:30 +0100" {5}\r\nabcde\r\n',
    b"a APPEND Inbox (\\Seen) CATENATE ()",
    b"a APPEND Inbox ~{5}\r\nabcde\r\n",
    b"a UID FETCH 1:*,3 (FLAGS BODY.PEEK[1.2.HEADER.FIELDS (Subject X)]<0.9> RFC822.SIZE) (CHANGEDSINCE 5 VANISHED)",
    b"a UID FETCH 1 (BINARY.PEEK[1.2]<1.2> BINARY.SIZE[1] BODY[HEADER.FIELDS.NOT ({1}\r\nX\r\n)])",
    b"a FETCH 1 (ALL)",
    b"a FETCH 1 BODYSTRUCTURE",
    b"a SEARCH RETURN (MIN MAX COUNT SAVE) CHARSET UTF-8 OR (FROM x NOT SEEN) 1 SINCE 1-Feb-2024 HEADER X {1}\r\ny\r\n",
    b'a UID SEARCH MODSEQ "/flags/\\\\draft" all 620162338 KEYWORD x LARGER 5 UID $',
    b"a STORE 1:2 (UNCHANGEDSINCE 5) +FLAGS.SILENT (\\Deleted x)",
    b"a UID COPY 1:3 Archive",
    b"a UID EXPUNGE 1:*",
    b"a NOTIFY NONE",
    b"a ESEARCH IN (MAILBOXES (a {1}\r\nb\r\n) SUBTREE-ONE c SELECTED) RETURN (COUNT) CHARSET UTF-8 UNSEEN 1:3",
    b"a NOTIFY SET STATUS (SELECTED-DELAYED (MessageNew (UID BODY.PEEK[TEXT]) MessageExpunge FlagChange))",
    b"a NOTIFY SET (SUBTREE (a {1}\r\nb\r\n) (MailboxName)) (INBOXES NONE) (PERSONAL (AnnotationChange))",
    b"a GETMETADATA (MAXSIZE 5 DEPTH infinity) Inbox (/private/comment /shared/vendor/x/y)",
    b'a SETMETADATA "" (/private/comment NIL /shared/x ~{3}\r\na\0b\r\n)',
    b'a LIST "" * RETURN (METADATA (/shared/x) CHILDREN)',
    b"a MOVE $ {1+}\r\nx\r\n",
    b"a CREATE Archive (USE (\\Archive \\Junk))",
    b"a COMPRESS DEFLATE",
    b'a SETQUOTA "" (STORAGE 512)',
    b"a GETMETADATA (MAXSIZE 1024 DEPTH infinity) Inbox (/private/comment /shared/x)",
    b'a SETMETADATA "" (/private/comment {3}\r\nabc\r\n /private/x NIL /private/y ~{1}\r\n\0\r\n)',
    b"a SEARCH YOUNGER 60 OLDER 5 SAVEDSINCE 1-Feb-2024 SAVEDATESUPPORTED",
    b"a FETCH 1 (PREVIEW (LAZY) SAVEDATE)",
]
TOKENS = [
    b" ",
    b"(",
    b")",
    b'"',
    b"\\",
    b"\\Seen",
    b"[",
    b"]",
    b"<",
    b">",
    b".",
    b"*",
    b"%",
    b":",
    b",",
    b"$",
    b"{3}\r\nabc\r\n",
]
TOKENS += [
    b"{1}",
    b"{0+}\r\n\r\n",
    b"~{1}\r\na\r\n",
    b"\xc3\xa9",
    b"\0",
    b"1",
    b"4294967296",
    b"NIL",
    b"NOT ",
    b"OR ",
    b"a",
    b"\r\n",
]
TOKENS += [
    b"a SEARCH ",
    b"a FETCH 1 ",
    b"a LIST ",
    b"BODY[",
    b"HEADER.FIELDS (",
    b"UID ",
    b"RETURN (",
    b"1-Feb-2024",
    b"-",
]

TOKENS += [b"a %s " % name for name in COMMANDS]

TARGETS = [
    Target("IMAP command", command, SEEDS, TOKENS, LONGEST_COMMAND),
    Target(
        "mailbox name",
        mailbox_name,
        [b"Entw&APw-rfe &- mehr"],
        [b"&", b"-", b"APw", b",", b"&-", b"a", b"\xc3\xa9", b"2D3cAA"],
    ),
    Target(
        "patterns",
        patterns,
        [b"a*b%/c", b"INBOX/x"],
        [b"*", b"%", b"/", b"a", b"inbox", b"\\", b"(", b".", b"\n", b"\xc3\xa9"],
        4096,
    ),
]
