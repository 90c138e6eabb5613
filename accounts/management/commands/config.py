"""``manage.py config``: accounts, addresses, domains, and TLS client keys."""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from accounts import accounts, domains, removal, tlskeys
from accounts.accounts import ConfigurationError
from accounts.addresses import AddressError, resolve
from accounts.models import Account, Address, Domain, TLSPublicKey
from protocols.names import BadAddress, parse_address

Options = Mapping[str, Any]


class Command(BaseCommand):
    help = (
        "Configure domains, accounts and addresses. Changes take effect at once, beside a running server; "
        "mox help config lists the words."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        groups = parser.add_subparsers(dest="group", required=True, metavar="GROUP")
        self._add_account(groups.add_parser("account", help="who has mail here"))
        self._add_address(groups.add_parser("address", help="where mail goes"))
        self._add_domain(groups.add_parser("domain", help="the domains that mail is taken for"))
        self._add_tlspubkey(groups.add_parser("tlspubkey", help="keys that log in to IMAP without a password"))

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
            "Remove an address: mail to it is refused from now on (or goes to the catchall). Messages stay where they "
            "are. An account whose last address is removed can no longer log in.",
        )
        remove.add_argument("address", help="localpart@domain, or @domain for the catchall")
        account = word("account", self._address_account, "Tell to which account mail for an address is delivered.")
        account.add_argument("address")
        account.add_argument("--json", action="store_true", help="for programs")

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
        remove = word(
            "rm",
            self._domain_remove,
            "Remove a domain: mail to it is refused from now on. Accounts and messages stay. Its DKIM keys are kept "
            "for 30 days; published DNS records are yours to remove.",
        )
        remove.add_argument("domain")
        remove.add_argument("--cascade", action="store_true", help="remove its addresses too")
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
        found = list(account.addresses.select_related("domain").order_by("canonical"))
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

    def _address_remove(self, options: Options) -> None:
        removed = accounts.remove_address(options["address"])
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
        if options["json"]:
            self._write_json(
                {"account": found.account_name, "mailbox": found.mailbox or "Inbox", "by": found.kind.value}
            )
        else:
            self.stdout.write(f"{found.account_name} (by {found.kind.value})")

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
        for address in removed:
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
    }


def _domain_json(domain: Domain, addresses: int) -> dict[str, Any]:
    return {
        "name": domain.name,
        "unicode_name": domain.unicode_name,
        "disabled": domain.disabled,
        "reports_only": not addresses,
        "addresses": addresses,
        "dkim_selectors": [
            {"name": selector.name, "algorithm": selector.algorithm, "sign": selector.sign}
            for selector in sorted(domain.dkim_selectors.all(), key=lambda selector: selector.name)
        ],
    }
