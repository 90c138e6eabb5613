"""The scenarios against a fresh localserve, each beside its yardstick in the same run: `make bench`.

    python -m bench.suite                 # all of them
    python -m bench.suite smtp-in imap    # those whose names begin so
    python -m bench.suite --runs 5        # pairs of runs for each ratio

What is printed last is the table of ratios and how they stand to the targets in BASELINE.md.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from . import procstat, yardsticks
from .target import Target

SINK = "127.0.0.34:2526"
MOX_IP, DOVECOT_IP, AIOSMTPD_IP = "127.0.0.31", "127.0.0.32", "127.0.0.33"


@dataclass(frozen=True)
class Case:
    """One line of the table: a scenario with its options, the yardstick, and the target as a ratio of rates."""

    name: str
    scenario: str
    options: tuple[str, ...]
    beside: str  # dovecot, aiosmtpd, or "" for a figure alone
    target: float
    figure: str = "rate"
    smaller_is_better: bool = False
    submits: bool = False  # without limits, and nothing is delivered meanwhile
    relays: bool = False  # what is submitted goes to a sink


CASES = [
    *(
        Case(f"smtp-in full, {c} conn", "smtp-in", ("-n", n, "-c", c, "--sources", "2048", "--per-connection", "10"),
             "aiosmtpd", 1.0)
        for n, c in (("200", "1"), ("600", "10"), ("600", "50"))
    ),
    Case("smtp-in small, 10 conn", "smtp-in",
         ("-n", "2000", "-c", "10", "--max-size", "65000", "--sources", "2048", "--per-connection", "10"),
         "aiosmtpd", 0.5),
    *(
        Case(f"submission full, {c} conn", "submission", ("-n", n, "-c", c, "--sources", "2048"), "aiosmtpd", 0.7,
             submits=True)
        for n, c in (("200", "1"), ("600", "10"), ("600", "50"))
    ),
    *(
        Case(f"queue-out small, {d} domains", "queue-out",
             ("-n", "1000", "-c", "4", "--max-size", "65000", "--remote-domains", d, "--sink", SINK), "", target,
             relays=True)
        for d, target in (("10", 200), ("1", 100))
    ),
    *(Case(f"imap-append, {c} conn", "imap-append", ("-n", n, "-c", c), "dovecot", 0.5)
      for n, c in (("300", "1"), ("600", "10"))),
    *(Case(f"imap-fetch-flags, {c} conn", "imap-fetch-flags", ("-n", n, "-c", c), "dovecot", 0.25)
      for n, c in (("20", "1"), ("60", "10"))),
    *(Case(f"imap-fetch-headers, {c} conn", "imap-fetch-headers", ("-n", n, "-c", c), "dovecot", 0.3)
      for n, c in (("10", "1"), ("30", "10"))),
    *(Case(f"imap-fetch-bodies, {c} conn", "imap-fetch-bodies", ("-n", n, "-c", c), "dovecot", 0.4)
      for n, c in (("5", "1"), ("20", "10"))),
    Case("imap-search SUBJECT p50 ms", "imap-search", ("-n", "60", "-c", "1"), "", 20, "subject_p50_ms", True),
    Case("imap-search BODY p50 ms", "imap-search", ("-n", "60", "-c", "1"), "", 150, "body_p50_ms", True),
    Case("imap-search FROM p50 ms", "imap-search", ("-n", "60", "-c", "1"), "", 20, "from_p50_ms", True),
    Case("imap-store-flags single, 10 conn", "imap-store-flags", ("-n", "2000", "-c", "10"), "dovecot", 0.25),
    Case("imap-store-flags 1:*", "imap-store-flags", ("-n", "200", "-c", "10"), "dovecot", 0.1, "bulk_msgs_per_s"),
    Case("imap-move single", "imap-move", ("-n", "300", "-c", "1"), "dovecot", 0.5),
    Case("imap-move bulk", "imap-move", ("-n", "300", "-c", "1"), "dovecot", 0.5, "bulk_msgs_per_s"),
    Case("imap-idle-latency p50 ms", "imap-idle-latency", ("-n", "100", "-c", "1"), "", 20, "p50_ms", True),
    Case("imap-idle-latency p99 ms", "imap-idle-latency", ("-n", "100", "-c", "1"), "", 100, "p99_ms", True),
    Case("many-idle KB/connection, 500", "many-idle", ("-n", "500", "-c", "500", "--sources", "2048"), "", 120,
         "kb_per_connection", True),
]  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="beginnings of names of scenarios; all when left out")
    parser.add_argument("--runs", type=int, default=3, help="pairs of runs for each ratio")
    parser.add_argument("--seed", default="1")
    parser.add_argument("--mail-workers", type=int, default=1)
    args = parser.parse_args()
    chosen = [c for c in CASES if not args.names or any(c.name.startswith(n) for n in args.names)]
    with contextlib.ExitStack() as stack:
        mox, directory = stack.enter_context(yardsticks.localserve(MOX_IP, args.mail_workers))
        targets = {"mox": mox}
        targets["aiosmtpd"] = stack.enter_context(yardsticks.noop_smtp(AIOSMTPD_IP))
        if yardsticks.has_dovecot():
            targets["dovecot"] = stack.enter_context(yardsticks.dovecot(DOVECOT_IP))
        else:
            print("dovecot is not installed (Debian: dovecot-imapd) or this is not root: no ratios", file=sys.stderr)
        time.sleep(2)
        print(
            f"memory of the idle server: {procstat.pss_mb(targets['mox'].pids):.0f} MB PSS (target 300)",
            file=sys.stderr,
        )
        rows = []
        for case in chosen:
            with _prepared(case, directory):
                rows.append(_measure(case, targets, args))
    print()
    for row in rows:
        print(row)
    return 0


def _prepared(case: Case, directory: Path) -> contextlib.AbstractContextManager[None]:
    if case.relays:
        return yardsticks.relaying(directory, SINK)
    return yardsticks.submitting(directory) if case.submits else contextlib.nullcontext()


def _measure(case: Case, targets: dict[str, Target], args: argparse.Namespace) -> str:
    pair = [targets["mox"]]
    if case.beside in targets:
        pair.insert(0, targets[case.beside])
    print(f"--- {case.name}", file=sys.stderr)
    command = [sys.executable, "-m", "bench", case.scenario, "--runs", str(args.runs), "--seed", args.seed]
    for target in pair:
        pids = "+".join(map(str, target.pids))
        command += ["--target", f"name={target.name},host={target.host},pids={pids}"]
    done = subprocess.run([*command, *case.options], cwd=yardsticks.PROJECT, stdout=subprocess.PIPE, text=True)
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    results = [line for line in lines if "target" in line]  # the others are of pairs
    ours = [float(r[case.figure]) for r in results if r["target"] == "mox"]
    if done.returncode or not ours:
        return f"{case.name:36} FAILED: {results[-1]['error_samples'] if results else 'no result'}"
    figure = statistics.median(ours)
    if len(pair) == 1:
        if case.smaller_is_better:
            verdict = "ok" if figure <= case.target else "MISSED"
            return f"{case.name:36} {figure:10.1f}   target {case.target:g}   {verdict}"
        verdict = "ok" if figure >= case.target else "MISSED"
        return f"{case.name:36} {figure:10.1f}/s   target {case.target:g}/s   {verdict}"
    theirs = [float(r[case.figure]) for r in results if r["target"] != "mox"]
    ratio = statistics.median(b / a for a, b in zip(theirs, ours, strict=True) if a)
    verdict = "ok" if ratio >= case.target else "MISSED"
    return (
        f"{case.name:36} {figure:10.1f}/s   {case.beside} {statistics.median(theirs):10.1f}/s   "
        f"ratio {ratio:.2f}   target {case.target:g}   {verdict}"
    )


if __name__ == "__main__":
    sys.exit(main())
