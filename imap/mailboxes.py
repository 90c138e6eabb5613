"""CREATE, DELETE, RENAME, SUBSCRIBE, UNSUBSCRIBE: the rules are the store's (RFC 9051 6.3.4 to 6.3.8, RFC 6154 3)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from store import changes, mailboxes, objectids
from store.changes import Event
from store.db import AccountTx
from store.models import SPECIAL_USES

from . import announce
from .answers import Done, Refused, read_mailbox_name
from .session import Session
from .syntax import Parser

USES_MAX: Final = 100  # of one CREATE


@dataclass(frozen=True, slots=True)
class CreateArguments:
    """``uses``: attributes as they were given, such as ``\\Sent``."""

    mailbox: bytes
    uses: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RenameArguments:
    source: bytes
    destination: bytes


def parse_name(parser: Parser) -> bytes:
    parser.space()
    name = parser.astring()
    parser.end()
    return name


def parse_create(parser: Parser) -> CreateArguments:
    parser.space()
    name = parser.astring()
    uses: list[str] | None = None
    if parser.take(b" "):
        parser.expect(b"(")
        while uses is None or not parser.take(b")"):
            if uses is not None or parser.word("USE") != "USE":
                raise parser.fail("USE, once")
            parser.space()
            uses = parser.flag_list()
        if len(uses) > USES_MAX:
            raise parser.fail(f"at most {USES_MAX} special uses")
    parser.end()
    return CreateArguments(name, tuple(uses or ()))


def parse_rename(parser: Parser) -> RenameArguments:
    parser.space()
    source = parser.astring()
    parser.space()
    destination = parser.astring()
    parser.end()
    return RenameArguments(source, destination)


async def create(session: Session, arguments: CreateArguments) -> Done:
    # A trailing separator says that mailboxes will be made below it; all of ours can have some (RFC 9051 6.3.4).
    name = read_mailbox_name(arguments.mailbox, utf8=session.utf8).removesuffix("/")
    uses = _special_uses(arguments.uses)

    def make(tx: AccountTx) -> tuple[str, list[Event]]:
        since = tx.state.last_modseq
        mailbox = mailboxes.create(tx, name, uses)[-1]
        tx.flush()
        return objectids.mailbox_id(mailbox.pk), changes.events(tx.account_id, since).events

    object_id, made = await session.change(make)
    await session.tell_pending()
    for event in made:
        if event.kind == announce.Kind.MAILBOX_ADD:
            session.send(announce.event_line(_with_old_name(event, name), rev2=session.rev2, utf8=session.utf8))
    return Done(code=b"MAILBOXID (%b)" % object_id.encode("ascii"))


def _special_uses(attributes: tuple[str, ...]) -> list[str]:
    """The store's names of special uses. Raises Refused for what a mailbox cannot be made for (RFC 6154 3)."""
    uses = [attribute.removeprefix("\\").lower() for attribute in attributes]
    for attribute, use in zip(attributes, uses, strict=True):
        if use not in SPECIAL_USES or attribute[:1] != "\\":
            raise Refused(f"no mailbox can be made for {attribute[:40]}", "USEATTR")
    return list(dict.fromkeys(uses))


def _with_old_name(event: Event, asked: str) -> Event:
    """A mailbox that got another spelling than the client gave (Inbox) is told as renamed (RFC 9051 6.3.9.7)."""
    made = event.data["name"]
    spelled = asked[: len(made)]
    if spelled == made:
        return event
    return replace(event, kind=announce.Kind.MAILBOX_RENAME, data={**event.data, "new": made, "old": spelled})


async def delete(session: Session, given: bytes) -> Done:
    name = read_mailbox_name(given, utf8=session.utf8)
    await session.change(lambda tx: mailboxes.delete(tx, name))
    return Done()


async def rename(session: Session, arguments: RenameArguments) -> Done:
    source = read_mailbox_name(arguments.source, utf8=session.utf8)
    destination = read_mailbox_name(arguments.destination, utf8=session.utf8).removesuffix("/")
    await session.change(lambda tx: mailboxes.rename(tx, source, destination))
    return Done()


async def subscribe(session: Session, given: bytes) -> Done:
    name = read_mailbox_name(given, utf8=session.utf8)
    await session.change(lambda tx: mailboxes.subscribe(tx, name))
    return Done()


async def unsubscribe(session: Session, given: bytes) -> Done:
    name = read_mailbox_name(given, utf8=session.utf8)
    await session.change(lambda tx: mailboxes.unsubscribe(tx, name))
    return Done()
