"""What was changed by hand is found, with what to do; and addresses for reports keep out of the way of others."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Callable, Iterator

import pytest
from django.core.management import CommandError, call_command
from django.db import connection

from accounts import addresschecks, domains
from accounts.accounts import ConfigurationError, add_address, remove_address
from accounts.addresses import Reports, resolve_account
from accounts.aliases import add_alias, members_of
from accounts.models import Account, Address, Alias, AliasMember, Domain
from accounts.reportaddresses import ReportKind, remove_report_address, set_report_address
from protocols.names import parse_domain
from server.models import Listener

pytestmark = pytest.mark.database


@pytest.fixture
def domain(account: Account) -> Iterator[Domain]:
    made = domains.create_domain(f"{account.name}.example")
    yield made
    Domain.objects.filter(pk=made.pk).update(dmarc_account=None, tlsrpt_account=None)


def config(*words: str) -> str:
    output = io.StringIO()
    call_command("config", *words, stdout=output, stderr=output)
    return output.getvalue()


def found(domain: Domain) -> list[str]:
    return [problem for problem in addresschecks.problems() if str(domain) in problem]


def test_it_finds_what_somebody_changed_by_hand(account: Account, domain: Domain) -> None:
    info, bob = add_address(account, "info", domain), add_address(account, "Bob", domain)
    team = add_alias(f"team@{domain}", [str(info)])
    assert found(domain) == []
    Domain.objects.filter(pk=domain.pk).update(localpart_catchall_separators=["e"])
    assert found(domain) == [f'alias {team} contains "e", the catchall separator of {domain}: replace it by another']
    Domain.objects.filter(pk=domain.pk).update(
        localpart_catchall_separators=[], localpart_case_sensitive=True, dmarc_localpart="BOB", dmarc_account=account
    )
    AliasMember.objects.filter(alias=team).delete()
    Alias.objects.filter(pk=team.pk).update(canonical=info.canonical)
    assert found(domain) == [
        f"address {bob} is stored as bob@{domain}, by which it is not found: remove it and add it again",
        f"alias {team} is stored as info@{domain}, by which it is not found: remove it and add it again",
        f"alias {team} is address {info}, too: remove one of them",
        f"address {bob} takes the DMARC reports of {domain}: have these come to another address",
        f"alias {team} has no members, mail to it is refused: add some, or remove it",
    ]
    Alias.objects.filter(pk=team.pk).delete()


def test_the_command_tells_of_listeners_too_and_its_status_says_whether_there_is_anything(database: None) -> None:
    listener = Listener.objects.create(name="by hand", ips=["nonsense"])
    try:
        with pytest.raises(SystemExit) as ended:
            config("test")
        assert ended.value.code == 1
    finally:
        listener.delete()


def test_reports_come_where_they_are_told_to(account: Account, domain: Domain) -> None:
    other = domains.create_domain(f"other-{account.name}.example")
    config("domain", "reports", domain.name, "dmarc", "a+reports", account.name, "--mailbox", "Reports/d")
    config("domain", "reports", other.name, "tlsrpt", "A+reports", account.name, "--at", domain.name)
    resolved = resolve_account("a+REPORTS", parse_domain(domain.name))
    assert (resolved.mailbox, resolved.reports) == ("Reports/d", Reports.DMARC | Reports.DOMAIN_TLS)
    (listed,) = [one for one in json.loads(config("domain", "list", "--json")) if one["name"] == other.name]
    assert listed["reports_only"]
    config("domain", "reports", domain.name, "dmarc")
    assert resolve_account("a+reports", parse_domain(domain.name)).reports == Reports.DOMAIN_TLS
    remove_report_address(other, ReportKind.TLSRPT)


def test_an_address_for_reports_is_nobody_elses(account: Account, domain: Domain) -> None:
    add_address(account, "Info", domain)
    add_alias(f"team@{domain}", [f"info@{domain}"])
    for localpart, what in (("iNFO", f"address Info@{domain}"), ("TEAM", f"alias team@{domain}")):
        with pytest.raises(
            ConfigurationError, match=f"address already configured: {what} exists, use another for TLSR"
        ):
            set_report_address(domain, ReportKind.TLSRPT, localpart, account)
    with pytest.raises(ConfigurationError, match="the localpart must be ASCII"):
        set_report_address(domain, ReportKind.DMARC, "bücher", account)
    with pytest.raises(ConfigurationError, match='mailbox "a//b" cannot be used'):
        set_report_address(domain, ReportKind.DMARC, "reports", account, mailbox="a//b")
    with pytest.raises(CommandError, match="name the account that the reports are for"):
        config("domain", "reports", domain.name, "dmarc", "reports")
    set_report_address(domain, ReportKind.DMARC, "reports", account)
    with pytest.raises(ConfigurationError, match=f"reports@{domain} takes the DMARC reports of {domain}"):
        add_address(account, "reports", domain)


def test_two_changes_at_once_do_not_break_together_what_neither_breaks_alone(
    account: Account, new_account: Callable[[], Account]
) -> None:
    """Each takes one of the last two members of an alias away."""
    leaving = [f"{one.name}@localhost" for one in (account, new_account())]
    team = add_alias(f"team-{account.name}@localhost", leaving)
    refused: list[str] = []
    together = threading.Barrier(2)

    def leave(text: str) -> None:
        try:
            together.wait()
            remove_address(text)
        except ConfigurationError as exc:
            refused.append(str(exc))
        finally:
            connection.close()

    threads = [threading.Thread(target=leave, args=(text,)) for text in leaving]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (stays,) = members_of(team)
    assert refused == [f"{stays} is the last member of alias {team}: add another member or remove the alias first"]
    assert Address.objects.filter(account__in=[account, stays.account]).count() == 1
