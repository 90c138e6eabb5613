"""Aliases and their members: what may be configured, what a refusal says, and what becomes of members that go."""

from __future__ import annotations

import io
import json
from collections.abc import Callable

import pytest
from django.core.management import CommandError, call_command

from accounts import accounts, aliases, domains, removal
from accounts.accounts import ConfigurationError, add_address, remove_address
from accounts.addresses import resolve_login
from accounts.aliases import add_alias, add_members, find_alias, members_of, remove_alias, remove_members
from accounts.models import Account, Address, Alias, AliasMember, Domain

pytestmark = pytest.mark.database


def address(account: Account) -> str:
    return f"{account.name}@localhost"


def config(*words: str) -> str:
    output = io.StringIO()
    call_command("config", *words, stdout=output, stderr=output)
    return output.getvalue()


@pytest.fixture
def other(new_account: Callable[[], Account]) -> Account:
    return new_account()


@pytest.fixture
def team(account: Account, other: Account) -> Alias:
    """An alias of two accounts."""
    return add_alias(f"team-{account.name}@localhost", [address(account), address(other)])


def members(alias: Alias) -> list[str]:
    return [str(member) for member in members_of(alias)]


# What may be one, and who may be in it.


def test_it_has_its_members_in_their_order_and_is_closed_at_first(
    team: Alias, account: Account, other: Account
) -> None:
    assert members(team) == [address(account), address(other)]
    assert (team.post_public, team.list_members, team.allow_msg_from) == (False, False, False)
    assert find_alias(f"TEAM-{account.name}+x@LOCALHOST") == team


def test_an_address_is_an_accounts_or_an_alias_and_never_both(team: Alias, account: Account) -> None:
    with pytest.raises(ConfigurationError, match=rf"already an alias \(as {team}\): use another address"):
        add_address(account, team.localpart.upper(), team.domain)
    with pytest.raises(ConfigurationError, match=f"{team} is already an alias: use another"):
        add_alias(str(team), [address(account)])
    with pytest.raises(ConfigurationError, match=f"already an address of account {account} .as {address(account)}"):
        add_alias(address(account).upper(), [address(account)])
    with pytest.raises(ConfigurationError, match="takes the TLS reports about this server"):
        add_alias("TLS-reports@localhost", [address(account)])
    assert Alias.objects.filter(localpart__iexact="tls-reports").count() == 0


@pytest.mark.parametrize(
    ("text", "refusal"),
    [
        ("a+b@localhost", 'localpart a\\+b contains "\\+", the catchall separator of localhost'),
        ("@localhost", "cannot be configured"),
        ('""@localhost', "cannot be configured"),
        ("nobody", "is not an email address"),
        ("team@elsewhere.example", "domain elsewhere.example is not configured, add it first"),
    ],
)
def test_what_cannot_be_an_alias(account: Account, text: str, refusal: str) -> None:
    with pytest.raises(ConfigurationError, match=refusal):
        add_alias(text, [address(account)])


def test_an_alias_needs_members(account: Account) -> None:
    name = f"empty-{account.name}@localhost"
    with pytest.raises(ConfigurationError, match=f"alias {name} needs at least one member"):
        add_alias(name, [])
    with pytest.raises(ConfigurationError, match="is not an alias"):
        find_alias(name)


def test_it_tells_all_that_is_wrong_about_members(team: Alias, account: Account) -> None:
    """There are no loops and no nested aliases: what is an alias cannot be a member."""
    wrong = [
        address(account),
        address(account).upper(),
        address(account).replace("@", "+x@"),
        "@localhost",
        str(team),
        "nobody-of-that-name@localhost",
        "a@elsewhere.example",
    ]
    with pytest.raises(ConfigurationError) as refused:
        add_alias(f"wrong-{account.name}@localhost", wrong)
    assert str(refused.value).split("; ") == [
        f"{address(account).upper()} is listed twice",
        f'{address(account).replace("@", "+x@")} contains the catchall separator "+": use {address(account)}',
        "@localhost is a catchall, which cannot be a member: name an address",
        "domain elsewhere.example is not configured, add it first",
        f"{team} is an alias, which cannot be a member: name its members instead",
        "nobody-of-that-name@localhost is not an address on this server (a catchall does not count)",
    ]
    with pytest.raises(ConfigurationError, match="is an alias, which cannot be a member"):
        add_members(team, [str(team)])
    assert not Alias.objects.filter(localpart=f"wrong-{account.name}").exists()


def test_members_come_and_go_but_for_the_last(
    team: Alias, account: Account, other: Account, new_account: Callable[[], Account]
) -> None:
    third = new_account()
    with pytest.raises(ConfigurationError, match=f"{address(other)} is already a member of alias {team}"):
        add_members(team, [address(third), address(other)])
    add_members(team, [address(third)])
    assert members(team) == [address(account), address(other), address(third)]
    remove_members(team, [address(account)])
    with pytest.raises(ConfigurationError, match=f"{address(account)} is not a member of alias {team}"):
        remove_members(team, [address(account)])
    with pytest.raises(ConfigurationError, match=f"is the last member of alias {team}: add another member or remove"):
        remove_members(team, [address(other), address(third)])
    assert members(team) == [address(other), address(third)]
    remove_alias(team)
    assert not AliasMember.objects.filter(alias=team.pk).exists()
    assert accounts.find_address(address(third)).account == third


def test_the_number_of_members_is_limited(team: Alias, account: Account, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigurationError, match="1001 members are named, at most 1000: make several aliases"):
        add_members(team, [f"m{number}@localhost" for number in range(1001)])
    monkeypatch.setattr(aliases, "MEMBERS_MAX", 2)
    add_address(account, f"second-{account.name}", team.domain)
    with pytest.raises(ConfigurationError, match=f"alias {team} would have 3 members, at most 2"):
        add_members(team, [f"second-{account.name}@localhost"])


def test_nobody_logs_in_as_an_alias(team: Alias, account: Account) -> None:
    assert resolve_login(str(team)) is None
    domain = domains.create_domain(f"{account.name}.example")
    add_address(account, "", domain)
    add_alias(f"team@{domain}", [address(account)])
    assert resolve_login(f"team@{domain}") is None, "nor as what the catchall would take"
    assert resolve_login(f"other@{domain}") is not None


# Members that go.


def test_a_removed_address_leaves_its_aliases_and_the_last_one_stays(
    team: Alias, account: Account, other: Account
) -> None:
    add_address(other, f"other-{other.name}", team.domain)
    removed = remove_address(address(other))
    assert removed.aliases == (team,)
    assert members(team) == [address(account)]
    with pytest.raises(ConfigurationError) as refused:
        remove_address(address(account))
    assert str(refused.value) == (
        f"{address(account)} is the last member of alias {team}: add another member or remove the alias first"
    )
    assert accounts.find_address(address(account)).account == account, "nothing was changed"
    remove_alias(team)
    assert remove_address(address(account)).was_last


def test_an_account_that_has_the_last_members_stays(team: Alias, account: Account, other: Account) -> None:
    """Two addresses of one account are no two members when the account goes."""
    add_address(account, f"second-{account.name}", team.domain)
    add_members(team, [f"second-{account.name}@localhost"])
    remove_members(team, [address(other)])
    with pytest.raises(ConfigurationError, match=rf"second-{account}@localhost is the last member of alias {team}"):
        removal.order(account)
    assert account.addresses.count() == 2
    add_members(team, [address(other)])
    remove_members(team, [address(account), f"second-{account.name}@localhost"])
    assert members(team) == [address(other)]


def test_a_removed_domain_takes_its_aliases_and_spares_those_of_others(team: Alias, account: Account) -> None:
    domain = domains.create_domain(f"{account.name}.example")
    add_address(account, "info", domain)
    add_alias(f"all@{domain}", [f"info@{domain}", address(account)])
    only = add_alias(f"only-{account.name}@localhost", [f"info@{domain}"])
    with pytest.raises(ConfigurationError, match=rf"in use by info@{domain} \(account {account}\), alias all@{domain}"):
        domains.remove_domain(domain)
    with pytest.raises(ConfigurationError, match=f"info@{domain} is the last member of alias {only}"):
        domains.remove_domain(domain, cascade=True)
    assert find_alias(f"all@{domain}"), "nothing was changed"
    add_members(only, [address(account)])
    removed = domains.remove_domain(domain, cascade=True)
    assert [str(alias) for alias in removed.aliases] == [f"all@{domain}"]
    assert members(only) == [address(account)]


# Separators and case.


@pytest.fixture
def domain(account: Account) -> Domain:
    return domains.create_domain(f"{account.name}.example")


def test_new_separators_must_leave_all_addresses_reachable(account: Account, domain: Domain) -> None:
    add_address(account, "a-b", domain)
    add_alias(f"team-1@{domain}", [f"a-b@{domain}"])
    with pytest.raises(ConfigurationError) as refused:
        domains.set_localparts(domain, separators=["+", "-"])
    assert str(refused.value) == (
        f'cannot set separator "-": in use in address a-b@{domain}, alias team-1@{domain}; rename those first'
    )
    changed = domains.set_localparts(domain, separators=["--", "="])
    assert changed.localpart_catchall_separators == ["--", "="]
    assert resolve_login(f"a-b--x@{domain}") == resolve_login(f"a-b=y@{domain}") == account.addresses.get(domain=domain)
    add_address(account, "a+b", domain)
    assert resolve_login(f"a+b@{domain}") is not None, "this is no separator any more"
    with pytest.raises(ConfigurationError, match=r'cannot set separator "\+": in use in address a\+b'):
        domains.set_localparts(domain, separators=["+"])


@pytest.mark.parametrize("separator", ["", "x", "@", " ", '"', "\\", "ü", "+" * 9])
def test_what_cannot_be_a_separator(domain: Domain, separator: str) -> None:
    with pytest.raises(ConfigurationError, match="separator "):
        domains.set_localparts(domain, separators=["+", separator])
    with pytest.raises(ConfigurationError, match='separator "-" is listed twice'):
        domains.set_localparts(domain, separators=["-", "+", "-"])


def test_addresses_that_differ_in_case_need_a_domain_that_minds(account: Account, domain: Domain) -> None:
    domains.set_localparts(domain, case_sensitive=True)
    bob = add_address(account, "Bob", domain)
    add_alias(f"bob@{domain}", [f"Bob@{domain}"])
    assert resolve_login(f"Bob@{domain}") == bob
    assert resolve_login(f"BOB@{domain}") is None
    with pytest.raises(ConfigurationError, match=f"case-insensitive would merge Bob@{domain} and bob@{domain}"):
        domains.set_localparts(domain, case_sensitive=False)
    assert resolve_login(f"Bob@{domain}") == bob
    remove_alias(find_alias(f"bob@{domain}"))
    domains.set_localparts(domain, case_sensitive=False)
    assert resolve_login(f"BOB@{domain}") == bob
    with pytest.raises(ConfigurationError, match=rf"is already an address of account {account} \(as Bob@"):
        add_alias(f"bOB@{domain}", [f"Bob@{domain}"])


# Pages and commands.


def test_members_see_each_other_only_where_they_may(team: Alias, account: Account, other: Account) -> None:
    (membership,) = aliases.memberships_of(account)
    assert (membership.alias, str(membership.address), membership.members) == (team, address(account), None)
    aliases.update_alias(team, list_members=True)
    (membership,) = aliases.memberships_of(account)
    assert membership.members == (address(account), address(other))


def test_the_commands_do_all_of_it(account: Account, other: Account) -> None:
    name = f"cli-{account.name}@localhost"
    added = config("alias", "add", name, address(account), address(other), "--postpublic", "true")
    assert added == (
        f"alias {name} added: anybody may send to it, members do not see each other, nobody may send as it\n"
    )
    assert f"{name} " in config("alias", "list", "localhost")
    config("alias", "update", name, "--postpublic", "false", "--allowmsgfrom", "true")
    config("alias", "rmaddr", name, address(account))
    config("alias", "addaddr", name, address(account))
    shown = json.loads(config("alias", "print", name, "--json"))
    assert shown == {
        "alias": name,
        "localpart": f"cli-{account.name}",
        "domain": "localhost",
        "post_public": False,
        "list_members": False,
        "allow_msg_from": True,
        "members": [
            {"address": address(other), "account": other.name},
            {"address": address(account), "account": account.name},
        ],
    }
    assert shown in json.loads(config("alias", "list", "--json"))
    assert config("alias", "print", name).splitlines()[1] == f"  {address(other):40} account {other.name}"
    assert config("address", "account", name) == (
        f"{other.name} ({address(other)}), {account.name} ({address(account)}) (by alias)\n"
    )
    assert json.loads(config("address", "print", address(account), "--json"))["aliases"] == [name]
    with pytest.raises(CommandError, match=f"{name} is an alias, not an address of an account"):
        config("address", "rm", name)
    config("alias", "rm", name)
    with pytest.raises(CommandError, match=f"{name} is not an alias: mox config alias list shows all"):
        config("alias", "print", name)


def test_a_long_localpart_is_taken_with_a_warning(account: Account) -> None:
    long = account.name + "x" * 65
    assert "octets, and other servers may send nothing to one of more than 64" in config(
        "alias", "add", f"{long}@localhost", address(account)
    )
    with pytest.raises(CommandError, match="localpart longer than 128 octets"):
        config("address", "add", f"{long}{'x' * 65}@localhost", account.name)


def test_the_command_changes_how_localparts_are_told_apart(domain: Domain) -> None:
    changed = config("domain", "localparts", domain.name, "--separator", "-", "--separator", "+")
    assert changed == f"domain {domain}: separators: - +; case makes no difference\n"
    assert config("domain", "localparts", domain.name, "--no-separators", "--casesensitive", "true") == (
        f"domain {domain}: separators: none; case makes a difference\n"
    )


def test_addresses_have_settings_that_keep_their_rules(account: Account) -> None:
    name = address(account)
    config("address", "update", name, "--mailbox", "Sales", "--fullname", "Zoë")
    for mailbox, problem in {"a//b": "bad slashes", "u\u0308": "not in unicode normal form"}.items():
        with pytest.raises(CommandError, match=f'mailbox "{mailbox}" cannot be used: .*{problem}'):
            config("address", "update", name, "--mailbox", mailbox)
    with pytest.raises(CommandError, match="cannot refuse all mail and have a default mailbox or rulesets"):
        config("address", "update", name, "--smtperror", "550 gone")
    for text in ("554 no", "5500", "550 ü", "550 " + "x" * 256):
        with pytest.raises(CommandError, match="SMTP error"):
            config("address", "update", name, "--mailbox", "", "--smtperror", text)
    config("address", "update", name, "--mailbox", "", "--smtperror", "550 gone")
    with pytest.raises(CommandError, match="refuses all mail with an SMTP error"):
        call_command("ruleset", "add", name, "Shop", "--from", "shop")
    changed = Address.objects.get(account=account)
    assert (changed.default_mailbox, changed.full_name, changed.smtp_error, changed.version) == (
        "",
        "Zoë",
        "550 gone",
        3,
    )
