"""Which address leads where: every form of it, what follows from settings, and what there is not."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from accounts import domains
from accounts.accounts import ConfigurationError, add_address
from accounts.addresses import (
    AddressNotFound,
    DomainDisabled,
    DomainNotFound,
    Reports,
    ResolvedAlias,
    ResolvedKind,
    may_send_as,
    resolve,
    resolve_account,
    resolve_login,
)
from accounts.aliases import AliasSettings, add_alias, remove_alias
from accounts.models import Account, Domain
from protocols.names import parse_address, parse_domain
from server.models import Listener

pytestmark = pytest.mark.database


def found(text: str) -> tuple[str, str, ResolvedKind]:
    """Account, canonical form and kind of where an address leads; the domain as it is written."""
    parsed = parse_address(text)
    resolved = resolve_account(parsed.localpart, parsed.domain)
    return resolved.account_name, resolved.canonical, resolved.kind


def sends(account: Account, text: str) -> bool:
    parsed = parse_address(text)
    return may_send_as(account.pk, parsed.localpart, parsed.domain)


@pytest.fixture
def domain(account: Account) -> Domain:
    return domains.create_domain(f"bücher-{account.name}.example")


def test_one_address_has_many_forms(account: Account, domain: Domain) -> None:
    domains.set_localparts(domain, separators=["+", "--"])
    add_address(account, "Info", domain)
    add_address(account, "Žoe x", domain)
    add_address(account, "J\u030cim", domain)
    for text in ("info", "INFO", "Info+Sales", "info--a+b", "info+--", '"info"', '"in\\fo"', "info+" + "x" * 100):
        for name in (domain.name, domain.unicode_name, domain.unicode_name.upper()):
            assert found(f"{text}@{name}") == (account.name, f"info@{domain.name}", ResolvedKind.ADDRESS)
    # Z with a caron in one character or two, and j with one, which exists as a small letter alone.
    for text in ('"žoe x"', '"Z\u030cOE X+y"'):
        assert found(f"{text}@{domain.name}")[1] == f"žoe x@{domain.name}"
    for text in ("\u01f0im", "J\u030cIM", "j\u030cim"):
        assert found(f"{text}@{domain.name}")[1] == f"\u01f0im@{domain.name}"
    with pytest.raises(ConfigurationError, match="is already an address of account"):
        add_address(account, "\u01f0im", domain)
    for text in ("inf", "info-x", "+info", "in.fo", "--info"):
        with pytest.raises(AddressNotFound):
            found(f"{text}@{domain.name}")


def test_a_catchall_comes_after_addresses_and_aliases_and_before_the_postmaster(
    account: Account, domain: Domain, new_account: Callable[[], Account]
) -> None:
    other = new_account()
    assert found(f"POSTmaster@{domain.name}") == ("mox", "postmaster", ResolvedKind.POSTMASTER)
    add_address(account, "", domain)
    add_address(other, "info", domain)
    add_alias(f"team@{domain}", [f"{other.name}@localhost"])
    assert found(f"info+x@{domain.name}")[0] == other.name
    assert isinstance(resolve("Team+x", parse_domain(domain.name)), ResolvedAlias)
    for text in ("anything", "postmaster", '""', "+x"):
        assert found(f"{text}@{domain.name}") == (account.name, f"@{domain.name}", ResolvedKind.CATCHALL)
    with pytest.raises(AddressNotFound):
        resolve_account("team", parse_domain(domain.name))


def test_the_postmaster_is_at_every_name_of_the_server(database: None) -> None:
    listener = Listener.objects.create(name="public", ips=["127.9.9.9"], hostname="mäil.example", smtp_enabled=True)
    try:
        assert found("Postmaster@xn--mil-qla.example") == ("mox", "postmaster", ResolvedKind.POSTMASTER)
        assert found("postmaster@localhost")[2] is ResolvedKind.POSTMASTER
    finally:
        listener.delete()
    assert resolve_account("postmaster", None).account_name == "mox"
    for text in ("postmaster@elsewhere.example", "postmaster@xn--mil-qla.example"):
        with pytest.raises(DomainNotFound):
            found(text)
    with pytest.raises(DomainNotFound):
        resolve("info", None)


# Reports.


@pytest.fixture
def reported(account: Account, domain: Domain) -> Iterator[Domain]:
    """A domain that gets its reports at addresses with the separator in them, and a catchall."""
    domain.dmarc_localpart, domain.dmarc_account = "dmarc+reports", account
    domain.tlsrpt_localpart, domain.tlsrpt_account = "TLS-reports", account
    domain.save()
    yield domain
    Domain.objects.filter(pk=domain.pk).update(dmarc_account=None, tlsrpt_account=None)


def test_reports_come_to_addresses_that_are_compared_as_a_whole(account: Account, reported: Domain) -> None:
    name = parse_domain(reported.name)
    dmarc, tls = resolve_account("DMARC+Reports", name), resolve_account("tls-reports", name)
    assert (dmarc.account_name, dmarc.mailbox, dmarc.reports) == (account.name, "DMARC", Reports.DMARC)
    assert (tls.account_name, tls.mailbox, tls.reports) == (account.name, "TLSRPT", Reports.DOMAIN_TLS)
    for text in ("dmarc", "tls-reports+x"):
        with pytest.raises(AddressNotFound):
            resolve(text, name)
    host = resolve_account("tls-reports", parse_domain("localhost"))
    assert (host.account_name, host.mailbox, host.reports) == ("mox", "TLSRPT", Reports.HOST_TLS)


def test_nobody_logs_in_or_sends_by_an_address_for_reports(account: Account, reported: Domain) -> None:
    add_address(account, "", reported)
    assert resolve_login(f"anything@{reported}") is not None
    assert sends(account, f"anything@{reported}")
    assert resolve_login(f"tls-reports@{reported}") is None
    assert not sends(account, f"tls-reports@{reported}")


def test_a_domain_that_is_there_for_its_reports_takes_no_other_mail(account: Account, reported: Domain) -> None:
    elsewhere = domains.create_domain(f"elsewhere-{account.name}.example")
    elsewhere.dmarc_localpart, elsewhere.dmarc_account, elsewhere.dmarc_domain = "x-reports", account, reported
    elsewhere.save()
    try:
        taken = resolve_account("x-reports", parse_domain(reported.name))
        assert (taken.account_name, taken.reports) == (account.name, Reports.DMARC)
        for text in ("info", "postmaster", "x-reports"):
            with pytest.raises(DomainNotFound):
                resolve(text, parse_domain(elsewhere.name))
        with pytest.raises(ConfigurationError, match=f"takes the DMARC reports of {elsewhere}"):
            add_alias(f"X-reports@{reported}", [f"{account.name}@localhost"])
        add_address(account, "info", elsewhere)
        assert found(f"info@{elsewhere.name}")[0] == account.name
        assert found(f"postmaster@{elsewhere.name}")[0] == "mox"
    finally:
        Domain.objects.filter(pk=elsewhere.pk).update(dmarc_account=None, dmarc_domain=None)


# Sending.


def test_members_send_as_an_alias_that_lets_them(account: Account, new_account: Callable[[], Account]) -> None:
    other = new_account()
    name = f"as-{account.name}@localhost"
    alias = add_alias(name, [f"{account.name}@localhost"], AliasSettings(allow_msg_from=True))
    assert sends(account, name)
    assert sends(account, name.upper().replace("@", "+x@"))
    assert not sends(other, name), "not a member"
    remove_alias(alias)
    assert not sends(account, name)
    add_alias(name, [f"{account.name}@localhost"], AliasSettings(post_public=True, list_members=True))
    assert not sends(account, name), "a member of an alias that nobody sends as"


def test_a_disabled_domain_takes_and_sends_nothing(account: Account, domain: Domain) -> None:
    add_address(account, "info", domain)
    add_alias(f"team@{domain}", [f"info@{domain}"], AliasSettings(allow_msg_from=True))
    domains.set_disabled(domain, True)
    for text in ("info", "team", "nobody"):
        with pytest.raises(DomainDisabled):
            resolve(text, parse_domain(domain.name))
        assert not sends(account, f"{text}@{domain}")
    assert resolve_login(f"info@{domain}") is not None, "its accounts read what they have"
    assert resolve_login(f"team@{domain}") is None
