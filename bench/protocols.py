"""CPU time of the protocol libraries, in milliseconds: `python -m bench.protocols`.

Least of several runs, by `process_time`; no network, DNS from memory. What each costs in the whole is in the budget of
BASELINE.md.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from ipaddress import ip_address

import uvloop

from protocols import dkim, dmarc, spf
from protocols.dns import MockResolver
from protocols.message import ensure_part
from protocols.names import Domain, IPDomain, parse_domain
from protocols.smtpsyntax import Path

from .corpus import Corpus

RUNS = 30
DOMAIN = parse_domain("sender.example")


def main() -> None:
    keys = {"r1": dkim.generate_rsa(2048), "r2": dkim.generate_rsa(2048), "e1": dkim.generate_ed25519()}
    records = {
        "txt sender.example.": ["v=spf1 include:a.example include:b.example include:c.example a mx -all"],
        "txt a.example.": ["v=spf1 ip4:192.0.2.1 -all"],
        "txt b.example.": ["v=spf1 ip4:192.0.2.2 -all"],
        "txt c.example.": ["v=spf1 ip4:192.0.2.3 -all"],
        "a sender.example.": ["192.0.2.4"],
        "mx sender.example.": ["10 mx.sender.example."],
        "a mx.sender.example.": ["192.0.2.5"],
        "txt _dmarc.sender.example.": ["v=DMARC1; p=reject"],
        **{f"txt {n}._domainkey.sender.example.": [dkim.DkimRecord.for_key(k).compose()] for n, k in keys.items()},
    }
    resolver = MockResolver(records)
    small = next(m.header + m.body for m in Corpus(1, ["x@y.example"], max_size=8000).messages(50, 0) if m.size < 8000)
    small = small.replace(b"From: ", b"X-From: ", 1)
    small = b"From: <anna@sender.example>\r\n" + b"".join(
        line + b"\r\n" for line in small.split(b"\r\n") if not line.lower().startswith(b"from:")
    )

    def selectors(*names: str) -> list[dkim.Selector]:
        return [dkim.Selector(Domain(name), keys[name], header_relaxed=True, body_relaxed=True) for name in names]

    signed = dkim.sign(small, "anna", DOMAIN, selectors("r1", "r2")) + small
    mail_from = Path("anna", IPDomain(domain=DOMAIN))
    args = spf.SpfArgs(ip_address("192.0.2.5"), mail_from, IPDomain(domain=DOMAIN), Domain("mx.example"))

    async def verify() -> None:
        signatures, sender = await asyncio.gather(dkim.verify(resolver, signed), spf.verify(resolver, args))
        verdict = await dmarc.verify(resolver, DOMAIN, signatures, sender)
        assert verdict.status is dmarc.DmarcStatus.PASS, (signatures, sender, verdict)

    part = b"--b\r\nContent-Type: text/plain\r\n\r\n" + b"some words of text in a line\r\n" * 700
    large = b'Content-Type: multipart/mixed; boundary="b"\r\n\r\n' + part * 50 + b"--b--\r\n"
    hostile = small.partition(b"\r\n\r\n")[0] + b"\r\n\r\n" + b" " * (5 << 20) + b"\r\n"
    hostile_signed = dkim.sign(hostile, "anna", DOMAIN, selectors("e1")) + hostile

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:  # as the server has it
        _report("verify a small message: 2 RSA-2048, SPF 5 lookups, DMARC", 1.5, lambda: runner.run(verify()))
        _report("sign with RSA-2048 and Ed25519", 2.0, lambda: dkim.sign(small, "anna", DOMAIN, selectors("r1", "e1")))
        _report(f"structure of {len(large) >> 10} KiB", 15.0, lambda: ensure_part(large))
        _report("verify 5 MB of white space", 100.0, lambda: runner.run(dkim.verify(resolver, hostile_signed)), runs=3)


def _report(name: str, target: float, function: Callable[[], object], runs: int = RUNS) -> None:
    least = float("inf")
    for _ in range(runs):
        began = time.process_time()
        function()
        least = min(least, time.process_time() - began)
    print(f"{name:60} {least * 1000:8.2f} ms   target {target:g}   {'ok' if least * 1000 <= target else 'MISSED'}")


if __name__ == "__main__":
    main()
