"""Making and changing aliases: addresses whose mail goes to several others (smtp.md section 7.4).

    alias = add_alias("team@example.org", ["ann@example.org", "bob@example.net"], AliasSettings(post_public=True))
    add_members(alias, ["eve@example.org"])

Members are addresses of accounts, never aliases or catchalls: there is nothing to go round in.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from django.db.models import F

from .accounts import (
    ConfigurationError,
    changing,
    check_free,
    checked_localpart,
    find_domain,
    named,
    parse_hosted,
)
from .addresses import canonical_address
from .models import Account, Address, Alias, AliasMember, Domain

MEMBERS_MAX: Final = 1000  # a message for all of them is one transaction, and one can have as many recipients


@dataclass(frozen=True, slots=True)
class AliasSettings:
    """Who may send to an alias and as it, and whether its members see each other."""

    post_public: bool = False
    list_members: bool = False
    allow_msg_from: bool = False


@dataclass(frozen=True, slots=True)
class Membership:
    """An alias as its member sees it: by which address it is one, and the other members where it may know them."""

    alias: Alias
    address: Address
    members: tuple[str, ...] | None


def find_alias(text: str) -> Alias:
    """An alias by any form of its address. Raises ConfigurationError."""
    localpart, domain = parse_hosted(text)
    alias = Alias.objects.filter(canonical=canonical_address(localpart, domain)).select_related("domain").first()
    if alias is None:
        raise ConfigurationError(f"{text} is not an alias: mox config alias list shows all")
    return alias


def add_alias(text: str, members: Sequence[str], settings: AliasSettings = AliasSettings()) -> Alias:  # frozen
    """A new alias with its members. Raises ConfigurationError."""
    localpart, domain = parse_hosted(text)
    with changing():
        domain = Domain.objects.get(pk=domain.pk)  # somebody may have changed its separators
        localpart = checked_localpart(localpart, domain)
        check_free(localpart, domain)
        if not members:
            raise ConfigurationError(f"alias {text} needs at least one member")
        alias = Alias.objects.create(
            domain=domain,
            localpart=localpart,
            canonical=canonical_address(localpart, domain),
            post_public=settings.post_public,
            list_members=settings.list_members,
            allow_msg_from=settings.allow_msg_from,
        )
        _add(alias, _found(members))
    return alias


def update_alias(
    alias: Alias,
    *,
    post_public: bool | None = None,
    list_members: bool | None = None,
    allow_msg_from: bool | None = None,
) -> Alias:
    """Change settings; None leaves one as it is. Gives the alias as it is then."""
    given = {"post_public": post_public, "list_members": list_members, "allow_msg_from": allow_msg_from}
    with changing():
        changed = {name: value for name, value in given.items() if value is not None}
        Alias.objects.filter(pk=alias.pk).update(version=F("version") + 1, **changed)
        return Alias.objects.select_related("domain").get(pk=alias.pk)


def remove_alias(alias: Alias) -> None:
    """Mail to it is refused from now on, or goes to the catchall. Its members stay what they are."""
    with changing():
        Alias.objects.filter(pk=alias.pk).delete()


def add_members(alias: Alias, members: Sequence[str]) -> None:
    """More members, behind the others. Raises ConfigurationError."""
    with changing():
        addresses = _found(members)
        present = set(alias.memberships.values_list("address_id", flat=True))
        already = [address for address in addresses if address.pk in present]
        if already:
            verb = "is already a member" if len(already) == 1 else "are already members"
            raise ConfigurationError(f"{named(already)} {verb} of alias {alias}")
        _add(alias, addresses)
        _changed(alias)


def remove_members(alias: Alias, members: Sequence[str]) -> None:
    """Take members out of an alias; at least one must stay. Raises ConfigurationError."""
    with changing():
        addresses = _found(members)
        present = set(alias.memberships.values_list("address_id", flat=True))
        strangers = [address for address in addresses if address.pk not in present]
        if strangers:
            verb = "is not a member" if len(strangers) == 1 else "are not members"
            raise ConfigurationError(f"{named(strangers)} {verb} of alias {alias}")
        if len(addresses) == len(present):
            raise ConfigurationError(
                f"{addresses[-1]} is the last member of alias {alias}: add another member or remove the alias first"
            )
        alias.memberships.filter(address__in=addresses).delete()
        _changed(alias)


def members_of(alias: Alias) -> list[Address]:
    """The members in their order."""
    rows = alias.memberships.select_related("address__domain", "address__account").order_by("pk")
    return [row.address for row in rows]


def memberships_of(account: Account) -> list[Membership]:
    """The aliases that addresses of an account are members of, by localpart and domain."""
    rows = AliasMember.objects.filter(address__account=account).select_related("alias__domain", "address__domain")
    return [
        Membership(
            row.alias,
            row.address,
            tuple(map(str, members_of(row.alias))) if row.alias.list_members else None,
        )
        for row in rows.order_by("alias__localpart", "alias__domain__name", "pk")
    ]


def _add(alias: Alias, addresses: Sequence[Address]) -> None:
    count = alias.memberships.count() + len(addresses)
    if count > MEMBERS_MAX:
        raise ConfigurationError(
            f"alias {alias} would have {count} members, at most {MEMBERS_MAX}: make several aliases of it"
        )
    AliasMember.objects.bulk_create(AliasMember(alias=alias, address=address) for address in addresses)


def _changed(alias: Alias) -> None:
    """Whoever edits the alias at this moment is told that it has changed."""
    Alias.objects.filter(pk=alias.pk).update(version=F("version") + 1)


def _found(texts: Sequence[str]) -> list[Address]:
    """The addresses of accounts that texts name. Raises ConfigurationError, which tells all that is wrong."""
    if len(texts) > MEMBERS_MAX:
        raise ConfigurationError(f"{len(texts)} members are named, at most {MEMBERS_MAX}: make several aliases")
    wanted: dict[str, str] = {}  # what was given, by canonical address
    find = functools.cache(find_domain)  # most members share a few domains
    problems: list[str] = []
    for text in texts:
        try:
            canonical = _canonical(text, find)
        except ConfigurationError as exc:
            problems.append(str(exc))
            continue
        if canonical in wanted:
            problems.append(f"{text} is listed twice")
        wanted[canonical] = text
    addresses = {
        address.canonical: address
        for address in Address.objects.filter(canonical__in=list(wanted)).select_related("domain")
    }
    missing = [canonical for canonical in wanted if canonical not in addresses]
    aliases = set(Alias.objects.filter(canonical__in=missing).values_list("canonical", flat=True))
    for canonical in missing:
        if canonical in aliases:
            problems.append(f"{wanted[canonical]} is an alias, which cannot be a member: name its members instead")
        else:
            problems.append(f"{wanted[canonical]} is not an address on this server (a catchall does not count)")
    if problems:
        raise ConfigurationError("; ".join(problems))
    return [addresses[canonical] for canonical in wanted]


def _canonical(text: str, find: Callable[[str], Domain]) -> str:
    """The canonical form of a member's address, which is given without anything behind a separator."""
    localpart, domain = parse_hosted(text, find)
    if not localpart:
        raise ConfigurationError(f"{text} is a catchall, which cannot be a member: name an address")
    for separator in domain.localpart_catchall_separators:
        base, found, _ = localpart.partition(separator)
        if base and found:
            raise ConfigurationError(f'{text} contains the catchall separator "{separator}": use {base}@{domain}')
    return canonical_address(localpart, domain)
