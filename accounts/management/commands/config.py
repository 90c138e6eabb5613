"""``manage.py config``: accounts, addresses, aliases, domains, client keys, transports, routes, and what is wrong."""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from accounts import accounts, addresschecks, addresssettings, aliases, domains, removal, reportaddresses, tlskeys
from accounts.accounts import ConfigurationError
from accounts.addresses import AddressError, ResolvedAlias, is_reports_only, resolve
from accounts.aliases import AliasSettings
from accounts.management.transportwords import RouteWords, TransportWords
from accounts.models import Account, Address, Alias, Domain, TLSPublicKey
from accounts.reportaddresses import ReportKind
from protocols.names import MAX_LOCALPART_STRICT, BadAddress, parse_address
from server import listener_rules

Options = Mapping[str, Any]


class Command(BaseCommand):
    help = (
        "Configure domains, accounts, addresses and aliases. Changes take effect at once, beside a running server; "
        "mox help config lists the words."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        groups = parser.add_subparsers(dest="group", required=True, metavar="GROUP")
        self._add_account(groups.add_parser("account", help="who has mail here"))
        self._add_address(groups.add_parser("address", help="where mail goes"))
        self._add_alias(groups.add_parser("alias", help="addresses whose mail goes to several others"))
        self._add_domain(groups.add_parser("domain", help="the domains that mail is taken for"))
        test = groups.add_parser(
            "test",
            help="Tell what is wrong with the configuration, if it was changed by hand",
            description="Tell what is wrong with addresses, aliases and listeners, if somebody changed them by hand. "
            "The exit status is 1 if there is anything; a server logs the same at its start.",
        )
        test.add_argument("--json", action="store_true", help="for programs")
        test.set_defaults(run=self._test)
        self._add_tlspubkey(groups.add_parser("tlspubkey", help="keys that log in to IMAP without a password"))
        write = self._write
        TransportWords(_words(groups.add_parser("transport", help="ways to deliver, such as over a relay")), write)
        RouteWords(_words(groups.add_parser("route", help="which mail takes which way")), write)

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            options["run"](options)
        except ConfigurationError as exc:
            raise CommandError(str(exc)) from exc

    def _add_account(self, parser: argparse.ArgumentParser) -> None:
        word = _words(parser)
        add = word(
            "add",
            self._account_add,
            "Add an account with its first address, in a domain that is configured already. It gets its mailboxes and "
            "takes mail at once; to log in it needs a password: mox setaccountpassword.",
        )
        add.add_argument("account", help="name, as it is shown in logs: letters, digits, dots, dashes, underscores")
        add.add_argument("address", help="localpart@domain")
        remove = word(
            "rm",
            self._account_remove,
            "Remove an account. All its data is removed: mailboxes, messages, addresses, settings; mail to it is "
            "refused and its sessions end at once. The work goes on in the background of a running server; the name is "
            "free when it is done. Messages that it sent and that still wait in the queue fail, and nobody is told.",
        )
        remove.add_argument("account")
        remove.add_argument("--deliver-queued", action="store_true", help="deliver what it sent and still waits")
        remove.add_argument("--json", action="store_true", help="for programs")
        listing = word("list", self._account_list, "List the accounts.")
        listing.add_argument("--json", action="store_true", help="for programs")
        addresses = word("addresses", self._account_addresses, "List the addresses of an account.")
        addresses.add_argument("account")
        addresses.add_argument("--json", action="store_true", help="for programs")
        disable = word(
            "disable",
            self._account_disable,
            "Refuse all logins of an account, with a text that its user is shown; sessions in browsers end. Mail for "
            "it is still delivered.",
        )
        disable.add_argument("account")
        disable.add_argument("reason", help="what the user is told, in one line")
        enable = word("enable", self._account_enable, "Allow logins of an account again.")
        enable.add_argument("account")

    def _add_address(self, parser: argparse.ArgumentParser) -> None:
        word = _words(parser)
        add = word(
            "add",
            self._address_add,
            "Add an address to an account: mail to it is delivered there, and it can be used to log in and to send "
            "from. @domain is the catchall, for all mail to the domain that no other address takes.",
        )
        add.add_argument("address", help="localpart@domain, or @domain")
        add.add_argument("account")
        remove = word(
            "rm",
            self._address_remove,
            "Remove an address: mail to it is refused from now on (or goes to the catchall), and it leaves the aliases "
            "that it is a member of. Messages stay where they are. An account whose last address is removed can no "
            "longer log in. The last member of an alias cannot be removed.",
        )
        remove.add_argument("address", help="localpart@domain, or @domain for the catchall")
        account = word("account", self._address_account, "Tell to which account mail for an address is delivered.")
        account.add_argument("address")
        account.add_argument("--json", action="store_true", help="for programs")
        show = word("print", self._address_print, "Show what is set for an address.")
        show.add_argument("address", help="localpart@domain, or @domain for the catchall")
        show.add_argument("--json", action="store_true", help="for programs")
        update = word(
            "update",
            self._address_update,
            'Change what is set for an address. What is not given stays as it is, "" removes it.',
        )
        update.add_argument("address", help="localpart@domain, or @domain for the catchall")
        update.add_argument("--mailbox", help="that mail goes to unless a ruleset says otherwise; Inbox without this")
        update.add_argument("--fullname", help="of the sender; the account's without this")
        update.add_argument(
            "--smtperror",
            metavar="TEXT",
            help="refuse all mail: 421 or 550, for now or for good, and behind a space what senders are told",
        )
        update.add_argument(
            "--messageauthrequirederror",
            metavar="TEXT",
            help="refuse, with this text, messages whose From address SPF and DKIM do not vouch for",
        )

    def _add_alias(self, parser: argparse.ArgumentParser) -> None:
        word = _words(parser)
        listing = word("list", self._alias_list, "List the aliases of a domain, or of all.")
        listing.add_argument("domain", nargs="?")
        listing.add_argument("--json", action="store_true", help="for programs")
        show = word("print", self._alias_print, "Show the settings and the members of an alias.")
        show.add_argument("alias", help="localpart@domain")
        show.add_argument("--json", action="store_true", help="for programs")
        add = word(
            "add",
            self._alias_add,
            "Add an alias: mail to it goes to its members, which are addresses of accounts on this server. A member "
            "who is a recipient anyway, or who wrote the message, gets no copy. Unless it is public, only members can "
            "send to it.",
        )
        add.add_argument("alias", help="localpart@domain")
        add.add_argument("member", nargs="+", help="address of an account")
        _add_alias_settings(add)
        update = word("update", self._alias_update, "Change settings of an alias. What is not given stays as it is.")
        update.add_argument("alias", help="localpart@domain")
        _add_alias_settings(update)
        remove = word("rm", self._alias_remove, "Remove an alias: mail to it is refused from now on. Its members stay.")
        remove.add_argument("alias", help="localpart@domain")
        addaddr = word("addaddr", self._alias_addaddr, "Add members to an alias.")
        addaddr.add_argument("alias", help="localpart@domain")
        addaddr.add_argument("member", nargs="+", help="address of an account")
        rmaddr = word("rmaddr", self._alias_rmaddr, "Take members out of an alias; the last one cannot go.")
        rmaddr.add_argument("alias", help="localpart@domain")
        rmaddr.add_argument("member", nargs="+", help="address of an account")

    def _add_domain(self, parser: argparse.ArgumentParser) -> None:
        word = _words(parser)
        add = word(
            "add",
            self._domain_add,
            "Add a domain, and make the keys that sign its mail (DKIM). The account is its owner, who gets the reports "
            "about it (DMARC, TLS); one that does not exist yet is made, with an address in the domain. DNS records "
            "must be published before mail from the domain is believed.",
        )
        add.add_argument("domain", help="A-labels or U-labels")
        add.add_argument("account", help="name of the account that owns the domain")
        add.add_argument("localpart", nargs="?", default="", help="of the first address, for a new account only")
        add.add_argument("--disabled", action="store_true", help="take and send no mail for it yet")
        reports = word(
            "reports",
            self._domain_reports,
            "Have reports about a domain come to an account, at an address that takes nothing else, or take none. The "
            "DNS record that names the address is yours to change.",
        )
        reports.add_argument("domain")
        reports.add_argument("kind", choices=[kind.value for kind in ReportKind])
        reports.add_argument("localpart", nargs="?", default="", help="of the address; without it none are taken")
        reports.add_argument("account", nargs="?", default="")
        reports.add_argument("--mailbox", default="", help="without it as before")
        reports.add_argument("--at", default="", metavar="DOMAIN", help="another domain here that the address is in")
        remove = word(
            "rm",
            self._domain_remove,
            "Remove a domain: mail to it is refused from now on. Accounts and messages stay. Its DKIM keys are kept "
            "for 30 days; published DNS records are yours to remove.",
        )
        remove.add_argument("domain")
        remove.add_argument("--cascade", action="store_true", help="remove its addresses and aliases too")
        listing = word("list", self._domain_list, "List the domains.")
        listing.add_argument("--json", action="store_true", help="for programs")
        disable = word(
            "disable",
            self._domain_disable,
            "Take and send no mail for a domain for now: senders are told to try again later. For migrations.",
        )
        disable.add_argument("domain")
        enable = word("enable", self._domain_enable, "Take and send mail for a domain again.")
        enable.add_argument("domain")
        localparts = word(
            "localparts",
            self._domain_localparts,
            "Change how localparts of a domain are told apart. Refused where addresses or aliases would no longer be "
            "reached, or become the same.",
        )
        localparts.add_argument("domain")
        localparts.add_argument(
            "--separator",
            action="append",
            metavar="TEXT",
            help="what stands behind it in a localpart makes no difference; may be given several times, unique senders "
            "are made with the first",
        )
        localparts.add_argument("--no-separators", action="store_true", help="all of a localpart counts")
        localparts.add_argument("--casesensitive", type=_boolean, metavar="true|false")

    def _add_tlspubkey(self, parser: argparse.ArgumentParser) -> None:
        word = _words(parser)
        add = word(
            "add",
            self._tlspubkey_add,
            "Register the key of a TLS client certificate for the account of an address: IMAP clients that have it "
            "are logged in from the start on port 993, or by AUTHENTICATE EXTERNAL. Only the public key counts; names "
            "and dates of the certificate are ignored.",
        )
        add.add_argument("address", help="that the key logs in as")
        add.add_argument("file", type=argparse.FileType("r"), help="the certificate in PEM; - reads standard input")
        add.add_argument("--name", default="", help="what to call it; without this the certificate's common name")
        add.add_argument(
            "--no-imap-preauth",
            action="store_true",
            help="sessions do not start logged in: for clients that do not know PREAUTH",
        )
        remove = word(
            "rm", self._tlspubkey_remove, "Remove a key: nobody can log in with it. Open sessions stay as they are."
        )
        remove.add_argument("fingerprint", help="as the list shows it")
        listing = word("list", self._tlspubkey_list, "List the keys of an account, or of all.")
        listing.add_argument("account", nargs="?")
        listing.add_argument("--json", action="store_true", help="for programs")

    def _account_add(self, options: Options) -> None:
        localpart, domain = accounts.parse_hosted(options["address"])
        account = accounts.create_account(options["account"], localpart, domain)
        self.stdout.write(f"account {account} added; set its password with: mox setaccountpassword {account}")

    def _account_remove(self, options: Options) -> None:
        account = accounts.find_account(options["account"])
        counts = removal.counts(account)
        removal.order(account, deliver_queued=options["deliver_queued"])
        if options["json"]:
            self._write_json({"account": account.name, "removed": counts})
            return
        listed = ", ".join(f"{count} {what}" for what, count in counts.items())
        self.stdout.write(f"account {account} is being removed: {listed}")

    def _account_list(self, options: Options) -> None:
        found = list(Account.objects.select_related("domain", "credential", "removal").order_by("name"))
        counts = Counter(Address.objects.values_list("account_id", flat=True))
        if options["json"]:
            self._write_json([_account_json(account, counts[account.pk]) for account in found])
            return
        for account in found:
            notes = [f"{counts[account.pk]} addresses"]
            notes += [] if hasattr(account, "credential") else ["no password"]
            notes += [f"login disabled: {account.login_disabled}"] if account.login_disabled else []
            notes += ["being removed"] if hasattr(account, "removal") else []
            self.stdout.write(f"{account.name:24} {account.domain!s:30} {', '.join(notes)}")

    def _account_addresses(self, options: Options) -> None:
        account = accounts.find_account(options["account"])
        rows = account.addresses.select_related("domain").prefetch_related("aliases__domain")
        found = list(rows.order_by("canonical"))
        if options["json"]:
            self._write_json([_address_json(address) for address in found])
            return
        for address in found:
            self.stdout.write(str(address))

    def _account_disable(self, options: Options) -> None:
        accounts.disable_account(accounts.find_account(options["account"]), options["reason"])

    def _account_enable(self, options: Options) -> None:
        accounts.enable_account(accounts.find_account(options["account"]))

    def _address_add(self, options: Options) -> None:
        localpart, domain = accounts.parse_hosted(options["address"])
        address = accounts.add_address(accounts.find_account(options["account"]), localpart, domain)
        self.stdout.write(f"{address} is an address of account {address.account}")
        self._warn_if_long(address)

    def _warn_if_long(self, added: Address | Alias) -> None:
        octets = len(added.localpart.encode())
        if octets > MAX_LOCALPART_STRICT:
            self.stderr.write(
                f"warning: {added} has a localpart of {octets} octets, and other servers may send nothing to one of "
                f"more than {MAX_LOCALPART_STRICT} (RFC 5321)"
            )

    def _address_remove(self, options: Options) -> None:
        removed = accounts.remove_address(options["address"])
        for alias in removed.aliases:
            self.stdout.write(f"removed from alias {alias} too")
        if removed.was_last:
            self.stderr.write(
                f"warning: account {removed.account} has no address left and can no longer log in: "
                f"mox config address add ADDRESS {removed.account}"
            )

    def _address_account(self, options: Options) -> None:
        try:
            parsed = parse_address(options["address"])
            found = resolve(parsed.localpart, parsed.domain)
        except (BadAddress, AddressError) as exc:
            raise CommandError(str(exc)) from exc
        if isinstance(found, ResolvedAlias):
            members = [{"address": str(m.address), "account": m.resolved.account_name} for m in found.members]
            if options["json"]:
                self._write_json({"alias": found.canonical, "members": members, "by": "alias"})
            else:
                listed = ", ".join(f"{member['account']} ({member['address']})" for member in members)
                self.stdout.write(f"{listed} (by alias)")
            return
        if options["json"]:
            self._write_json(
                {"account": found.account_name, "mailbox": found.mailbox or "Inbox", "by": found.kind.value}
            )
        else:
            self.stdout.write(f"{found.account_name} (by {found.kind.value})")

    def _address_print(self, options: Options) -> None:
        address = accounts.find_address(options["address"])
        if options["json"]:
            self._write_json(_address_json(address))
            return
        for name, value in _address_json(address).items():
            self.stdout.write(f"{name:28} {', '.join(value) if isinstance(value, list) else value}")

    def _address_update(self, options: Options) -> None:
        addresssettings.change_address(
            accounts.find_address(options["address"]),
            default_mailbox=options["mailbox"],
            full_name=options["fullname"],
            smtp_error=options["smtperror"],
            message_auth_required_error=options["messageauthrequirederror"],
        )

    def _alias_list(self, options: Options) -> None:
        found = Alias.objects.select_related("domain").order_by("domain__name", "localpart")
        if options["domain"]:
            found = found.filter(domain=accounts.find_domain(options["domain"]))
        if options["json"]:
            self._write_json([_alias_json(alias) for alias in found])
            return
        for alias in found:
            notes = [f"{alias.memberships.count()} members", *_alias_notes(alias)]
            self.stdout.write(f"{alias!s:40} {', '.join(notes)}")

    def _alias_print(self, options: Options) -> None:
        alias = aliases.find_alias(options["alias"])
        if options["json"]:
            self._write_json(_alias_json(alias))
            return
        self.stdout.write(f"{alias}: {', '.join(_alias_notes(alias))}")
        for address in aliases.members_of(alias):
            self.stdout.write(f"  {address!s:40} account {address.account}")

    def _alias_add(self, options: Options) -> None:
        given = {name: value for name, value in _alias_settings(options).items() if value is not None}
        alias = aliases.add_alias(options["alias"], options["member"], AliasSettings(**given))
        self.stdout.write(f"alias {alias} added: {', '.join(_alias_notes(alias))}")
        self._warn_if_long(alias)

    def _alias_update(self, options: Options) -> None:
        alias = aliases.update_alias(aliases.find_alias(options["alias"]), **_alias_settings(options))
        self.stdout.write(f"alias {alias}: {', '.join(_alias_notes(alias))}")

    def _alias_remove(self, options: Options) -> None:
        aliases.remove_alias(aliases.find_alias(options["alias"]))

    def _alias_addaddr(self, options: Options) -> None:
        aliases.add_members(aliases.find_alias(options["alias"]), options["member"])

    def _alias_rmaddr(self, options: Options) -> None:
        aliases.remove_members(aliases.find_alias(options["alias"]), options["member"])

    def _domain_add(self, options: Options) -> None:
        added = domains.add_domain(
            options["domain"], options["account"], options["localpart"], disabled=options["disabled"]
        )
        self.stdout.write(f"domain {added.domain} added")
        if added.made:
            self.stdout.write(
                f"account {added.account} added; set its password: mox setaccountpassword {added.account}"
            )
        if added.postmaster:
            self.stdout.write(f"postmaster@{added.domain} is an address of account {added.account}")

    def _domain_remove(self, options: Options) -> None:
        removed = domains.remove_domain(accounts.find_domain(options["domain"]), cascade=options["cascade"])
        for alias in removed.aliases:
            self.stdout.write(f"alias {alias} removed")
        for address in removed.addresses:
            self.stdout.write(f"{address} removed from account {address.account}")
            if not address.account.addresses.exists():
                self.stderr.write(f"warning: account {address.account} has no address left and can no longer log in")

    def _domain_list(self, options: Options) -> None:
        found = list(Domain.objects.order_by("name").prefetch_related("dkim_selectors"))
        counts = Counter(Address.objects.values_list("domain_id", flat=True))
        if options["json"]:
            self._write_json([_domain_json(domain, counts[domain.pk]) for domain in found])
            return
        for domain in found:
            notes = [f"{counts[domain.pk]} addresses"] + (["disabled"] if domain.disabled else [])
            shown = f"{domain.unicode_name} ({domain.name})" if domain.unicode_name else domain.name
            self.stdout.write(f"{shown:40} {', '.join(notes)}")

    def _domain_disable(self, options: Options) -> None:
        domains.set_disabled(accounts.find_domain(options["domain"]), True)

    def _domain_enable(self, options: Options) -> None:
        domains.set_disabled(accounts.find_domain(options["domain"]), False)

    def _domain_reports(self, options: Options) -> None:
        domain, kind = accounts.find_domain(options["domain"]), ReportKind(options["kind"])
        if not options["localpart"]:
            reportaddresses.remove_report_address(domain, kind)
            return
        if not options["account"]:
            raise ConfigurationError("name the account that the reports are for")
        reportaddresses.set_report_address(
            domain,
            kind,
            options["localpart"],
            accounts.find_account(options["account"]),
            mailbox=options["mailbox"],
            elsewhere=accounts.find_domain(options["at"]) if options["at"] else None,
        )

    def _test(self, options: Options) -> None:
        problems = [f"listener {listener.name}: {text}" for listener, text in listener_rules.stored_problems()]
        problems += addresschecks.problems()
        if options["json"]:
            self._write_json(problems)
        for problem in problems if not options["json"] else ():
            self.stdout.write(f"error: {problem}")
        if problems:
            sys.exit(1)

    def _domain_localparts(self, options: Options) -> None:
        separators = [] if options["no_separators"] else options["separator"]
        domain = domains.set_localparts(
            accounts.find_domain(options["domain"]), separators=separators, case_sensitive=options["casesensitive"]
        )
        shown = " ".join(domain.localpart_catchall_separators) or "none"
        sensitive = "makes a difference" if domain.localpart_case_sensitive else "makes no difference"
        self.stdout.write(f"domain {domain}: separators: {shown}; case {sensitive}")

    def _tlspubkey_add(self, options: Options) -> None:
        with options["file"] as file:
            pem = file.read(tlskeys.PEM_MAX)
        key = tlskeys.add_key(options["address"], pem, name=options["name"], no_imap_preauth=options["no_imap_preauth"])
        self.stdout.write(f"key {key.fingerprint} ({key.type}) added for account {key.account}")

    def _tlspubkey_remove(self, options: Options) -> None:
        key = tlskeys.remove_key(options["fingerprint"])
        self.stdout.write(f"key {key.fingerprint} of account {key.account} removed")

    def _tlspubkey_list(self, options: Options) -> None:
        account = accounts.find_account(options["account"]) if options["account"] else None
        found = tlskeys.keys(account)
        if options["json"]:
            self._write_json([_tlspubkey_json(key) for key in found])
            return
        for key in found:
            note = ", no preauth" if key.no_imap_preauth else ""
            self.stdout.write(
                f"{key.fingerprint} {key.account.name:24} {key.login_address} {key.type} {key.name}{note}"
            )

    def _write(self, text: str) -> None:
        self.stdout.write(text)  # not bound when the words are made: whoever calls the command may set it

    def _write_json(self, value: Any) -> None:
        self.stdout.write(json.dumps(value))


def _words(parser: argparse.ArgumentParser) -> Callable[[str, Callable[[Options], None], str], argparse.ArgumentParser]:
    """A function that adds a word to a group of them."""
    words = parser.add_subparsers(dest="word", required=True, metavar="WORD")

    def word(name: str, run: Callable[[Options], None], text: str) -> argparse.ArgumentParser:
        added = words.add_parser(name, help=text, description=text)
        added.set_defaults(run=run)
        return added

    return word


def _add_alias_settings(parser: argparse.ArgumentParser) -> None:
    for option, text in (
        ("--postpublic", "anybody may send to it; else only members"),
        ("--listmembers", "members see each other in their account pages"),
        ("--allowmsgfrom", "members may use it as their From address"),
    ):
        parser.add_argument(option, type=_boolean, metavar="true|false", help=text)


def _alias_settings(options: Options) -> dict[str, bool | None]:
    return {
        "post_public": options["postpublic"],
        "list_members": options["listmembers"],
        "allow_msg_from": options["allowmsgfrom"],
    }


def _boolean(text: str) -> bool:
    if text not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"{text!r} is neither true nor false")
    return text == "true"


def _alias_notes(alias: Alias) -> list[str]:
    return [
        "anybody may send to it" if alias.post_public else "members may send to it",
        "members see each other" if alias.list_members else "members do not see each other",
        "members may send as it" if alias.allow_msg_from else "nobody may send as it",
    ]


def _alias_json(alias: Alias) -> dict[str, Any]:
    return {
        "alias": str(alias),
        "localpart": alias.localpart,
        "domain": alias.domain.name,
        "post_public": alias.post_public,
        "list_members": alias.list_members,
        "allow_msg_from": alias.allow_msg_from,
        "members": [
            {"address": str(address), "account": address.account.name} for address in aliases.members_of(alias)
        ],
    }


def _account_json(account: Account, addresses: int) -> dict[str, Any]:
    return {
        "name": account.name,
        "domain": account.domain.name,
        "addresses": addresses,
        "has_password": hasattr(account, "credential"),
        "login_disabled": account.login_disabled,
        "being_removed": hasattr(account, "removal"),
    }


def _tlspubkey_json(key: TLSPublicKey) -> dict[str, Any]:
    return {
        "fingerprint": key.fingerprint,
        "account": key.account.name,
        "login_address": key.login_address,
        "name": key.name,
        "type": key.type,
        "no_imap_preauth": key.no_imap_preauth,
        "created": key.created.isoformat(),
    }


def _address_json(address: Address) -> dict[str, Any]:
    return {
        "address": str(address),
        "localpart": address.localpart,
        "domain": address.domain.name,
        "mailbox": address.default_mailbox or "Inbox",
        "full_name": address.full_name,
        "smtp_error": address.smtp_error,
        "message_auth_required_error": address.message_auth_required_error,
        "aliases": sorted(map(str, address.aliases.all())),
    }


def _domain_json(domain: Domain, addresses: int) -> dict[str, Any]:
    return {
        "name": domain.name,
        "unicode_name": domain.unicode_name,
        "disabled": domain.disabled,
        "reports_only": is_reports_only(domain),
        "addresses": addresses,
        "aliases": domain.aliases.count(),
        "localpart_catchall_separators": domain.localpart_catchall_separators,
        "localpart_case_sensitive": domain.localpart_case_sensitive,
        "dkim_selectors": [
            {"name": selector.name, "algorithm": selector.algorithm, "sign": selector.sign}
            for selector in sorted(domain.dkim_selectors.all(), key=lambda selector: selector.name)
        ],
    }
