"""The metrics of the protocol libraries, which know nothing of Prometheus: how long lookups and checks take.

lookupmetrics.use()         # once, in a process that makes them
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from prometheus_client import Counter, Histogram

from protocols import metrics

_SHORT: Final = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10, 20)
_LONG: Final = (*_SHORT, 30)
_FETCH: Final = (0.01, 0.05, 0.1, 0.5, 1, 5, 10, 20, 30)

_histograms: Final = {
    name: Histogram(name, text, labels, buckets=buckets)
    for name, text, labels, buckets in (
        ("mox_dns_lookup_duration_seconds", "Seconds of DNS lookups.", ("pkg", "type", "result"), _LONG),
        ("mox_iprev_lookup_total", "Seconds of looking up a client's name.", ("status",), _LONG),
        ("mox_spf_verify_duration_seconds", "Seconds of SPF checks.", ("status",), _SHORT),
        ("mox_dkim_verify_duration_seconds", "Seconds of DKIM checks.", ("algorithm", "status"), _SHORT),
        ("mox_dmarc_verify_duration_seconds", "Seconds of DMARC checks.", ("status", "reject", "use"), _SHORT),
        ("mox_dnsbl_lookup_duration_seconds", "Seconds of asking blocklists.", ("zone", "status"), _SHORT),
        ("mox_mtasts_get_duration_seconds", "Seconds of getting MTA-STS policies.", ("result",), _FETCH),
        ("mox_tlsrpt_lookup_duration_seconds", "Seconds of looking up where TLS reports go.", ("result",), _LONG),
    )
}
_counters: Final = {
    name: Counter(name, text)
    for name, text in (
        ("mox_dane_verify_total", "Certificates checked by DANE."),
        ("mox_dane_verify_errors_total", "Certificates that DANE refused."),
    )
}
_children: dict[tuple[str, ...], Histogram] = {}  # by name and labels; finding them costs more than counting


def use() -> None:
    """Have this process count what the libraries observe from now on."""
    metrics.use(_observe)


def _observe(name: str, seconds: float, labels: Mapping[str, str]) -> None:
    counter = _counters.get(name)
    if counter is not None:
        counter.inc()
        return
    key = (name, *labels.values())
    child = _children.get(key)
    if child is None and name in _histograms:
        child = _children[key] = _histograms[name].labels(**labels)
    if child is not None:
        child.observe(seconds)
