"""Adding, changing and removing domains, accounts and addresses: what is allowed, and what a refusal says."""

from __future__ import annotations

import io
import itertools
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from django.core.management import CommandError, call_command

from accounts import accounts, addresses, domains, sessions
from accounts.accounts import ConfigurationError, add_address, create_account, remove_address
from accounts.addresses import ResolvedKind
from accounts.fromidlogins import set_logins
from accounts.models import Account, Address, DKIMSelector, Domain, FromIDLoginAddress, LoginSession, RemovedKey
from accounts.passwords import check_password, set_password
from protocols.names import parse_address
from server.models import EndpointKind, Listener, ListenerEndpoint

pytestmark = pytest.mark.database

_numbers = itertools.count(1)


def new_name() -> str:
    return f"shop{next(_numbers)}a"


@pytest.fixture
def owner(new_account: Callable[[], Account]) -> Account:
    return new_account()


@pytest.fixture
def domain(owner: Account) -> Domain:
    return domains.add_domain(f"{new_name()}.example", owner.name).domain


def config(*words: str) -> str:
    output = io.StringIO()
    call_command("config", *words, stdout=output, stderr=output)
    return output.getvalue()


def resolved(address: str) -> tuple[str, ResolvedKind]:
    parsed = parse_address(address)
    found = addresses.resolve_account(parsed.localpart, parsed.domain)
    return found.account_name, found.kind


# Domains


def test_a_new_domain_signs_and_its_owner_gets_the_reports(owner: Account) -> None:
    added = domains.add_domain(f"{new_name()}.example", owner.name)
    domain = Domain.objects.get(name=added.domain.name)
    year = datetime.now(UTC).year
    selectors = DKIMSelector.objects.filter(domain=domain).order_by("name")
    assert [(one.name, one.algorithm, one.sign) for one in selectors] == [
        (f"{year}a", "ed25519", True),
        (f"{year}b", "rsa", True),
        (f"{year}c", "ed25519", False),
        (f"{year}d", "rsa", False),
    ]
    assert (domain.dmarc_localpart, domain.dmarc_account, domain.dmarc_mailbox) == ("dmarc-reports", owner, "DMARC")
    assert (domain.tlsrpt_localpart, domain.tlsrpt_account, domain.tlsrpt_mailbox) == ("tls-reports", owner, "TLSRPT")
    assert domain.client_settings_domain == f"mail.{domain.name}"
    assert domain.localpart_catchall_separators == ["+"]
    assert not domain.mtasts_policy_id, "no listener serves the policy"


def test_an_owner_who_is_not_the_postmaster_gets_its_address(owner: Account, domain: Domain) -> None:
    assert resolved(f"postmaster@{domain}") == (owner.name, ResolvedKind.ADDRESS)
    by_postmaster = domains.add_domain(f"{new_name()}.example", "mox")
    assert not by_postmaster.postmaster
    assert resolved(f"postmaster@{by_postmaster.domain}") == ("mox", ResolvedKind.POSTMASTER)


def test_a_domain_can_bring_its_account(database: None) -> None:
    name = new_name()
    with pytest.raises(ConfigurationError, match=f"account {name} does not exist yet: give a localpart"):
        domains.add_domain(f"{name}.example", name)
    assert not Domain.objects.filter(name=f"{name}.example").exists(), "nothing stays of a refused change"
    added = domains.add_domain(f"{name}.example", name, "info")
    assert added.made
    assert resolved(f"info@{name}.example") == (name, ResolvedKind.ADDRESS)
    with pytest.raises(ConfigurationError, match=f"account {name} exists: leave localpart empty"):
        domains.add_domain(f"other{name}.example", name, "info")


def test_a_domain_is_known_by_its_a_labels(owner: Account) -> None:
    name = new_name()
    domains.add_domain(f"bücher-{name}.example", owner.name)
    with pytest.raises(ConfigurationError, match=f"domain bücher-{name}.example is already configured"):
        domains.add_domain(f"BÜCHER-{name}.example", owner.name)
    found = accounts.find_domain(f"bücher-{name}.example")
    assert accounts.find_domain(found.name) == found
    assert found.name.startswith("xn--")


@pytest.mark.parametrize("name", ["", "a..example", "x" * 64 + ".example", "192.0.2.1", "a_b.example", "a.example."])
def test_what_is_no_domain_name_is_refused(owner: Account, name: str) -> None:
    with pytest.raises(ConfigurationError, match="is not a domain name"):
        domains.add_domain(name, owner.name)


def test_a_domain_gets_a_policy_for_tls_if_a_listener_serves_it(owner: Account) -> None:
    endpoint = ListenerEndpoint.objects.create(
        listener=Listener.objects.all()[0], kind=EndpointKind.MTASTS, tls=True, port=1443
    )
    try:
        domain = domains.add_domain(f"{new_name()}.example", owner.name).domain
    finally:
        endpoint.delete()
    assert domain.mtasts_policy_id.isalnum()
    assert domain.mtasts_mx == ["localhost"]


def test_a_domain_in_use_stays(owner: Account, domain: Domain) -> None:
    add_address(owner, "info", domain)
    with pytest.raises(ConfigurationError, match=rf"in use by info@{domain} \(account {owner}\), postmaster@{domain}"):
        domains.remove_domain(domain)
    assert resolved(f"info@{domain}") == (owner.name, ResolvedKind.ADDRESS)


def test_a_removed_domain_takes_its_addresses_and_leaves_its_keys(owner: Account, domain: Domain) -> None:
    name = domain.name
    keys = dict(DKIMSelector.objects.filter(domain=domain).values_list("name", "private_key"))
    gone = domains.remove_domain(domain, cascade=True)
    assert [str(address) for address in gone.addresses] == [f"postmaster@{name}"]
    assert Account.objects.filter(pk=owner.pk).exists()
    with pytest.raises(addresses.DomainNotFound):
        resolved(f"postmaster@{name}")
    assert dict(RemovedKey.objects.filter(domain=name).values_list("name", "private_key")) == keys
    domains.remove_expired_keys(datetime.now(UTC) + timedelta(days=29))
    assert RemovedKey.objects.filter(domain=name).count() == 4
    domains.remove_expired_keys(datetime.now(UTC) + timedelta(days=31))
    assert not RemovedKey.objects.filter(domain=name).exists()


def test_an_account_moves_to_another_domain_that_it_has_an_address_in(database: None, domain: Domain) -> None:
    name = new_name()
    account = domains.add_domain(f"{name}.example", name, "info").account
    first = account.domain
    with pytest.raises(ConfigurationError, match=f"account {name} was made in {first} and has no address in another"):
        domains.remove_domain(first, cascade=True)
    add_address(account, "info2", domain)
    domains.remove_domain(first, cascade=True)
    account.refresh_from_db()
    assert account.domain == domain


def test_a_domain_that_takes_the_reports_of_another_stays(owner: Account, domain: Domain) -> None:
    other = domains.add_domain(f"{new_name()}.example", owner.name).domain
    other.tlsrpt_domain = domain
    other.save()
    with pytest.raises(ConfigurationError, match=f"TLSRPT reports of {other} come to addresses in {domain}"):
        domains.remove_domain(domain, cascade=True)


# Accounts


@pytest.mark.parametrize("name", ["", ".a", "-a", "a b", "a/b", "a@b", "a\n", "x" * 65])
def test_names_that_no_account_can_have(domain: Domain, name: str) -> None:
    with pytest.raises(ConfigurationError, match="use 1 to 64 letters, digits, dots, dashes and underscores"):
        create_account(name, "info", domain)


def test_names_are_told_apart_without_case_and_some_are_reserved(domain: Domain) -> None:
    name = new_name()
    create_account(f"Jörg-{name}", f"j{name}", domain)
    with pytest.raises(ConfigurationError, match=f"account name jÖRG-{name} already present"):
        create_account(f"jÖRG-{name}", "info", domain)
    with pytest.raises(ConfigurationError, match="account name Admin is reserved"):
        create_account("Admin", "info", domain)


def test_a_disabled_account_cannot_log_in_and_its_sessions_end(owner: Account) -> None:
    sessions.create(
        LoginSession.Kind.WEBMAIL,
        owner,
        login_address=f"{owner}@localhost",
        terms=sessions.Terms(timedelta(hours=1), 10),
        remote_ip="127.0.0.1",
        user_agent="",
        now=datetime.now(UTC),
    )
    accounts.disable_account(owner, "come to room 12")
    owner.refresh_from_db()
    assert owner.login_disabled == "come to room 12"
    assert not LoginSession.objects.filter(account=owner).exists()
    accounts.enable_account(owner)
    owner.refresh_from_db()
    assert owner.login_disabled == ""


@pytest.mark.parametrize("reason", ["", "  ", "two\nlines", "x" * 257])
def test_a_reason_to_refuse_logins_is_one_line(owner: Account, reason: str) -> None:
    with pytest.raises(ConfigurationError, match="reason"):
        accounts.disable_account(owner, reason)


# Addresses


def test_an_address_belongs_to_one_account_whatever_its_case(
    owner: Account, domain: Domain, new_account: Callable[[], Account]
) -> None:
    add_address(owner, "Info", domain)
    with pytest.raises(ConfigurationError) as refused:
        add_address(new_account(), "info", domain)
    assert str(refused.value) == f"info@{domain} is already an address of account {owner} (as Info@{domain})"


def test_one_catchall_takes_the_rest(owner: Account, domain: Domain, new_account: Callable[[], Account]) -> None:
    add_address(owner, "", domain)
    assert resolved(f"anything@{domain}") == (owner.name, ResolvedKind.CATCHALL)
    with pytest.raises(ConfigurationError, match=f"@{domain} is already the catchall of account {owner}"):
        add_address(new_account(), "", domain)
    assert remove_address(f"@{domain}").account == owner
    with pytest.raises(ConfigurationError, match=f"domain {domain} has no catchall"):
        remove_address(f"@{domain}")


@pytest.mark.parametrize("text", ["a b@x", "nobody", "a@", "a@b@c.example", "a@-.example"])
def test_what_is_no_address_is_refused(owner: Account, text: str) -> None:
    with pytest.raises(ConfigurationError, match="is not an email address"):
        accounts.parse_hosted(text)


def test_an_address_needs_a_domain_that_is_configured(owner: Account) -> None:
    with pytest.raises(ConfigurationError, match=r"domain elsewhere\.example is not configured, add it first"):
        accounts.parse_hosted("info@elsewhere.example")


def test_a_separator_in_a_localpart_is_explained(owner: Account, domain: Domain) -> None:
    with pytest.raises(ConfigurationError) as refused:
        add_address(owner, "in+fo", domain)
    assert str(refused.value) == (
        f'localpart in+fo contains "+", the catchall separator of {domain}; mail to it would go to "in"'
    )


def test_addresses_that_come_from_settings_are_explained(owner: Account, domain: Domain) -> None:
    with pytest.raises(ConfigurationError, match=f"dmarc-reports@{domain} takes the DMARC reports of {domain}"):
        add_address(owner, "dmarc-reports", domain)
    with pytest.raises(ConfigurationError, match=f"tls-reports@{domain} .* comes from the TLSRPT settings of {domain}"):
        remove_address(f"tls-reports@{domain}")
    remove_address(f"postmaster@{domain}")
    with pytest.raises(ConfigurationError, match="it follows the server's postmaster setting"):
        remove_address(f"postmaster@{domain}")


def test_removing_an_address_takes_its_unique_senders_and_names_the_last_one(owner: Account) -> None:
    (address,) = owner.addresses.all()
    set_logins(owner, [str(address)])
    removed = remove_address(str(address))
    assert removed.was_last
    assert not FromIDLoginAddress.objects.filter(account=owner).exists()
    with pytest.raises(ConfigurationError, match="is not an address on this server"):
        remove_address(str(address))


# Commands


def test_the_config_command_tells_what_it_did(database: None) -> None:
    name = new_name()
    added = config("domain", "add", f"{name}.example", name, "info")
    assert f"domain {name}.example added" in added
    assert f"mox setaccountpassword {name}" in added
    config("address", "add", f"sales@{name}.example", name)
    assert config("account", "addresses", name) == f"info@{name}.example\nsales@{name}.example\n"
    assert json.loads(config("account", "addresses", name, "--json"))[1] == {
        "address": f"sales@{name}.example",
        "localpart": "sales",
        "domain": f"{name}.example",
        "mailbox": "Inbox",
        "full_name": "",
        "smtp_error": "",
        "message_auth_required_error": "",
        "aliases": [],
    }
    assert config("address", "account", f"SALES+x@{name}.example") == f"{name} (by address)\n"
    config("address", "rm", f"info@{name}.example")
    assert "can no longer log in" in config("address", "rm", f"sales@{name}.example")
    assert "no password" in next(line for line in config("account", "list").splitlines() if line.startswith(name))
    config("account", "disable", name, "gone fishing")
    (listed,) = [one for one in json.loads(config("account", "list", "--json")) if one["name"] == name]
    assert listed == {
        "name": name,
        "domain": f"{name}.example",
        "addresses": 0,
        "has_password": False,
        "login_disabled": "gone fishing",
        "being_removed": False,
    }


def test_a_disabled_domain_takes_no_mail_until_it_is_enabled(owner: Account, domain: Domain) -> None:
    config("domain", "disable", domain.name)
    with pytest.raises(addresses.DomainDisabled):
        resolved(f"postmaster@{domain}")
    (listed,) = [one for one in json.loads(config("domain", "list", "--json")) if one["name"] == domain.name]
    assert listed["disabled"]
    assert [selector["sign"] for selector in listed["dkim_selectors"]] == [True, True, False, False]
    config("domain", "enable", domain.name)
    assert resolved(f"postmaster@{domain}") == (owner.name, ResolvedKind.ADDRESS)
    with pytest.raises(CommandError, match="is in use by"):
        config("domain", "rm", domain.name)
    assert f"postmaster@{domain} removed from account {owner}" in config("domain", "rm", domain.name, "--cascade")


def test_a_password_is_read_from_standard_input(owner: Account, monkeypatch: pytest.MonkeyPatch) -> None:
    set_password(owner, "the one before")
    address = Address.objects.get(account=owner)

    def asked(text: str) -> None:
        monkeypatch.setattr("sys.stdin", io.StringIO(text))
        call_command("setaccountpassword", owner.name, stdout=io.StringIO())

    for text, refusal in {
        "": "no password on standard input",
        "short\n": "shorter than 8 characters",
        "bell\a bell\n": "cannot be part of a password",
    }.items():
        with pytest.raises(CommandError, match=refusal):
            asked(text)
    assert check_password(address, "the one before")
    asked("a new password \r\nnot this\n")
    assert check_password(address, "a new password ")
    with pytest.raises(CommandError, match="account nobody-here does not exist"):
        call_command("setaccountpassword", "nobody-here")
