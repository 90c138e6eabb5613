"""What a verdict costs an account with much mail: processor time and queries, for kinds of senders.

    python -m bench.verdict                       # 100,000 messages, half of them judged
    python -m bench.verdict --messages 10000

Unlike the rest of bench/ this uses the project's own code, in a new directory that is removed afterwards.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

RUNS = 300
TARGET_MS, TARGET_QUERIES = 1.5, 20
TYPICAL = 10_000  # bytes of a message that most are smaller than


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--messages", type=int, default=100_000)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="mox-bench-", ignore_cleanup_errors=True) as name:
        directory = Path(name) / "d"
        os.environ.update({"DJANGO_SETTINGS_MODULE": "mox_project.settings", "MOX_DATA_DIR": str(directory)})
        from mox_project import localserve

        localserve.claim(directory)
        import django

        django.setup()
        localserve.set_up(directory, "127.0.0.1")
        return _measure(args.messages)


def _measure(count: int) -> int:
    from django.db import connection

    from accounts.models import Account, Address, JunkFilterConfig
    from bench.corpus import Corpus
    from junk import rates, training
    from junk.analysis import Incoming, analyze
    from junk.reputation import Sender
    from protocols.message.source import BytesSource
    from protocols.names import parse_address
    from store import blobs

    account = Account.objects.get(name=localserve_account())
    address = Address.objects.filter(account=account).first()
    assert address is not None
    JunkFilterConfig.objects.get_or_create(account=account)
    corpus = [m.header + m.body for m in Corpus(1, [address.canonical], max_size=TYPICAL).messages(300)]
    started = time.monotonic()
    _fill(account.pk, corpus, count)
    training.train_due()
    print(f"{count} messages in {time.monotonic() - started:.0f} s", file=sys.stderr)
    now = datetime.now(UTC)
    networks = ("198.51.100.77", "198.51.100.64", "198.51.96.0")
    known = Sender(
        account.pk,
        msg_from_localpart="user8",
        msg_from_domain="big.example",
        msg_from_org_domain="big.example",
        ascii_domain="big.example",
        ascii_org_domain="big.example",
        msg_from_validated=True,
        mail_from_localpart="user8",
        mail_from_domain="big.example",
        mail_from_validated=True,
        dkim_domains=("big.example",),
        networks=networks,
    )
    stranger = replace(
        known,
        msg_from_domain="new.example",
        msg_from_org_domain="new.example",
        ascii_domain="new.example",
        ascii_org_domain="new.example",
        dkim_domains=(),
        networks=("203.0.113.9",) * 3,
    )
    signatures = ("none.example", "big.example", "unjudged.example", "other.example")
    senders = {
        "known address": known,
        "new address of a known domain": replace(known, msg_from_localpart="nobody"),
        "forged": replace(known, msg_from_validated=False, mail_from_validated=False, dkim_domains=()),
        "stranger, signed by a big sender": replace(stranger, dkim_domains=signatures, networks=networks),
        "another user of a big sender": replace(stranger, mail_from_domain="big.example", mail_from_localpart="nobody"),
        "stranger": replace(stranger, mail_from_domain="new.example", dkim_domains=("new.example",)),
    }
    prepared = [(content, blobs.prepare(content)) for content in corpus]
    worst = 0.0
    connection.ensure_connection()
    for name, sender in senders.items():
        asked: list[str] = []
        spent = []
        for turn in range(RUNS):
            content, blob = prepared[turn % len(prepared)]
            incoming = Incoming(
                account_id=account.pk,
                address_id=address.pk,
                canonical=address.canonical,
                mailbox="",
                sender=sender,
                author=parse_address(f"{sender.msg_from_localpart}@{sender.msg_from_domain}"),
                mail_from="a@big.example",
                spf_domain="",
                spf_is_hello=False,
                spf_failed=False,
                signed_by=(),
                iprev_passed=True,
                has_tls=True,
                policy_refusal="",
                dmarc_passed=True,
                is_addressed=True,
                header=content[: blob.structure["body"]],
                source=BytesSource(content),
                structure=blob.structure,
                subject="",
                size=len(content),
                received=now,
            )
            if turn == RUNS - 1:
                rates._counted_at.clear()  # so that all that can be asked is
                connection.connection.set_trace_callback(asked.append)
            began = time.process_time()
            verdict = analyze(incoming)
            spent.append(time.process_time() - began)
        connection.connection.set_trace_callback(None)
        mean = 1000 * sum(spent[:-1]) / (RUNS - 1)
        worst = max(worst, mean)
        why = getattr(verdict, "reason", "blocklists")
        print(f"{name:36} {mean:6.2f} ms   {len(asked):3} queries   last: {1000 * spent[-1]:.2f} ms   {why}")
        if len(asked) > TARGET_QUERIES:
            worst = float("inf")
    print("ok" if worst <= TARGET_MS else f"MISSED: at most {TARGET_MS} ms and {TARGET_QUERIES} queries")
    return 0 if worst <= TARGET_MS else 1


def localserve_account() -> str:
    from mox_project import localserve

    return localserve.LOCALPART


def _fill(account_id: int, corpus: list[bytes], count: int) -> None:
    """Some messages to learn from, and many of a thousand addresses at a big sender: most judged, all signed."""
    from django.db import connection

    from server import db
    from store import blobs
    from store.db import write_tx
    from store.delivery import Delivery, deliver
    from store.messages import NewMessage, Origin

    origin = Origin(
        remote_ip="198.51.100.77",
        remote_ip_masked1="198.51.100.77",
        remote_ip_masked2="198.51.100.64",
        remote_ip_masked3="198.51.96.0",
        mail_from_domain="big.example",
        mail_from_localpart="x",
        mail_from_validated=True,
        msg_from_domain="big.example",
        msg_from_org_domain="big.example",
        msg_from_validated=True,
    )
    with write_tx(account_id) as tx:
        for content in corpus:
            placed = deliver(tx, Delivery(account_id, "", NewMessage(blobs.prepare(content), origin=origin)))
    changed = {
        "uid": f"n.value + {len(corpus)}",
        "received": "strftime('%Y-%m-%d %H:%M:%f', 'now', '-' || (n.value * 40) || ' seconds')",
        "msg_from_localpart": "'user' || (n.value % 1000)",
        "message_id": "'<' || n.value || '@x>'",
        "junk": "n.value % 10 = 1",
        "notjunk": "n.value % 2 = 0",
        "trained_junk": "CASE WHEN n.value % 10 = 1 THEN 1 WHEN n.value % 2 = 0 THEN 0 END",
    }
    with connection.cursor() as cursor:
        cursor.execute("PRAGMA table_info(store_message)")
        columns = [row[1] for row in cursor.fetchall() if row[1] != "id"]
    values = ", ".join(changed.get(column, f"m.{column}") for column in columns)
    with db.write(), connection.cursor() as cursor:
        cursor.execute(
            f"INSERT INTO store_message ({', '.join(columns)}) WITH RECURSIVE n(value) AS"
            f" (SELECT 1 UNION ALL SELECT value + 1 FROM n WHERE value < {count})"
            f" SELECT {values} FROM n, store_message m WHERE m.id = {placed.message_id}"
        )
        cursor.execute(
            "INSERT INTO store_messagedkimdomain (message_id, domain, received, mailbox_orig_id, junk)"
            " SELECT m.id, d.domain, m.received, m.mailbox_orig_id,"
            " CASE WHEN m.junk = m.notjunk OR d.domain = 'unjudged.example' THEN NULL ELSE m.junk END"
            " FROM store_message m, (SELECT 'big.example' AS domain UNION ALL SELECT 'unjudged.example') d"
        )
        cursor.execute(
            f"UPDATE store_message SET junk = uid % 3 = 0, notjunk = uid % 3 <> 0 WHERE uid <= {len(corpus)}"
        )
        cursor.execute(f"UPDATE store_mailbox SET uidnext = {count + len(corpus) + 1} WHERE id = {placed.mailbox_id}")


if __name__ == "__main__":
    sys.exit(main())
