"""The table of commands: in which states each is allowed, how it is parsed, and what carries it out."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, TypeVar

from . import (
    append,
    compress,
    fetch,
    fetchargs,
    general,
    idle,
    listargs,
    listing,
    login,
    mailboxes,
    metadata,
    metadataargs,
    multisearch,
    notify,
    notifyargs,
    quota,
    replace,
    search,
    searchargs,
    select,
    sort,
    storeflags,
    thread,
    transfer,
)
from .answers import Done
from .session import Session, State
from .syntax import Parser

A = TypeVar("A")

ANY: Final = frozenset(State)
NOT_AUTHENTICATED: Final = frozenset({State.NOT_AUTHENTICATED})
AUTHENTICATED: Final = frozenset({State.AUTHENTICATED, State.SELECTED})
SELECTED: Final = frozenset({State.SELECTED})


@dataclass(frozen=True, slots=True)
class Command:
    """``announces``: before its tagged answer, the client is told what others changed.

    SELECT does so by itself, before its answer, which is all there is at one moment.
    ``by_number``: its arguments are message numbers, which there are none of with UIDONLY.
    """

    states: frozenset[State]
    parse: Callable[[Parser], Any]
    run: Callable[[Session, Any], Awaitable[Done]]
    announces: bool
    by_number: bool


def _command(
    states: frozenset[State],
    parse: Callable[[Parser], A],
    run: Callable[[Session, A], Awaitable[Done]],
    *,
    announces: bool = True,
    by_number: bool = False,
) -> Command:
    return Command(states, parse, run, announces, by_number)


COMMANDS: Final[dict[bytes, Command]] = {
    b"CAPABILITY": _command(ANY, general.parse_nothing, general.capability),
    b"NOOP": _command(ANY, general.parse_nothing, general.noop),
    b"LOGOUT": _command(ANY, general.parse_nothing, general.logout, announces=False),
    b"ID": _command(ANY, general.parse_id, general.id_),
    b"STARTTLS": _command(NOT_AUTHENTICATED, general.parse_nothing, general.starttls),
    b"LOGIN": _command(NOT_AUTHENTICATED, login.parse_login, login.login),
    b"AUTHENTICATE": _command(NOT_AUTHENTICATED, login.parse_authenticate, login.authenticate),
    b"UNAUTHENTICATE": _command(AUTHENTICATED, general.parse_nothing, login.unauthenticate, announces=False),
    b"COMPRESS": _command(AUTHENTICATED, compress.parse, compress.compress),
    b"ENABLE": _command(AUTHENTICATED, general.parse_enable, general.enable),
    b"NAMESPACE": _command(AUTHENTICATED, general.parse_nothing, general.namespace),
    b"SELECT": _command(AUTHENTICATED, partial(select.parse, read_only=False), select.select, announces=False),
    b"EXAMINE": _command(AUTHENTICATED, partial(select.parse, read_only=True), select.select, announces=False),
    b"CREATE": _command(AUTHENTICATED, mailboxes.parse_create, mailboxes.create),
    b"DELETE": _command(AUTHENTICATED, mailboxes.parse_name, mailboxes.delete),
    b"RENAME": _command(AUTHENTICATED, mailboxes.parse_rename, mailboxes.rename),
    b"SUBSCRIBE": _command(AUTHENTICATED, mailboxes.parse_name, mailboxes.subscribe),
    b"UNSUBSCRIBE": _command(AUTHENTICATED, mailboxes.parse_name, mailboxes.unsubscribe),
    b"LIST": _command(AUTHENTICATED, listargs.parse_list, listing.list_),
    b"LSUB": _command(AUTHENTICATED, listargs.parse_lsub, listing.lsub),
    b"STATUS": _command(AUTHENTICATED, listargs.parse_status, listing.status),
    b"GETQUOTA": _command(AUTHENTICATED, quota.parse, quota.getquota),
    b"GETQUOTAROOT": _command(AUTHENTICATED, quota.parse, quota.getquotaroot),
    b"SETQUOTA": _command(AUTHENTICATED, quota.parse_setquota, quota.setquota),
    b"APPEND": _command(AUTHENTICATED, append.parse, append.append),
    b"GETMETADATA": _command(AUTHENTICATED, metadataargs.parse_get, metadata.get),
    b"SETMETADATA": _command(AUTHENTICATED, metadataargs.parse_set, metadata.set_),
    b"NOTIFY": _command(AUTHENTICATED, notifyargs.parse, notify.notify),
    b"IDLE": _command(AUTHENTICATED, general.parse_nothing, idle.idle),
    b"ESEARCH": _command(AUTHENTICATED, multisearch.parse, multisearch.esearch),
    b"CHECK": _command(SELECTED, general.parse_nothing, general.noop),
    b"CLOSE": _command(SELECTED, general.parse_nothing, select.close),
    b"UNSELECT": _command(SELECTED, general.parse_nothing, select.unselect),
    # With message numbers nothing may shift them in the middle of what a client does (RFC 9051 7.5.1).
    b"FETCH": _command(SELECTED, partial(fetchargs.parse, is_uid=False), fetch.fetch, by_number=True, announces=False),
    b"UID FETCH": _command(SELECTED, partial(fetchargs.parse, is_uid=True), fetch.fetch),
    b"SEARCH": _command(
        SELECTED, partial(searchargs.parse, is_uid=False), search.search, by_number=True, announces=False
    ),
    b"UID SEARCH": _command(SELECTED, partial(searchargs.parse, is_uid=True), search.search),
    b"SORT": _command(SELECTED, partial(sort.parse, is_uid=False), sort.sort, by_number=True, announces=False),
    b"UID SORT": _command(SELECTED, partial(sort.parse, is_uid=True), sort.sort),
    b"THREAD": _command(SELECTED, partial(thread.parse, is_uid=False), thread.thread, by_number=True, announces=False),
    b"UID THREAD": _command(SELECTED, partial(thread.parse, is_uid=True), thread.thread),
    b"STORE": _command(
        SELECTED, partial(storeflags.parse, is_uid=False), storeflags.store, by_number=True, announces=False
    ),
    b"UID STORE": _command(SELECTED, partial(storeflags.parse, is_uid=True), storeflags.store),
    b"COPY": _command(SELECTED, partial(transfer.parse, is_uid=False), transfer.copy, by_number=True),
    b"UID COPY": _command(SELECTED, partial(transfer.parse, is_uid=True), transfer.copy),
    b"MOVE": _command(SELECTED, partial(transfer.parse, is_uid=False), transfer.move, by_number=True),
    b"UID MOVE": _command(SELECTED, partial(transfer.parse, is_uid=True), transfer.move),
    b"REPLACE": _command(SELECTED, partial(replace.parse, is_uid=False), replace.replace, by_number=True),
    b"UID REPLACE": _command(SELECTED, partial(replace.parse, is_uid=True), replace.replace),
    b"EXPUNGE": _command(SELECTED, general.parse_nothing, transfer.expunge),
    b"UID EXPUNGE": _command(SELECTED, transfer.parse_uid_expunge, transfer.expunge),
}
