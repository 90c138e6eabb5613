"""Transports and routes as they are configured: what is refused and by which field, and what stands in the way."""

from __future__ import annotations

import io
import itertools
import json
from collections.abc import Iterator
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from accounts import domains
from accounts.accounts import ConfigurationError
from accounts.models import Account, Route, Transport
from accounts.transports import (
    RouteSettings,
    add_transport,
    change_transport,
    remove_transport,
    routes_of,
    save_routes,
)
from mailqueue import routing
from mailqueue.models import QueueMessage
from tests.domain.queueing import send

pytestmark = pytest.mark.database

_numbers = itertools.count(1)


@pytest.fixture(autouse=True)
def cleaned(database: None) -> Iterator[None]:
    yield
    save_routes([])


@pytest.fixture
def name() -> str:
    return f"transport-{next(_numbers)}"


def config(*words: str) -> str:
    output = io.StringIO()
    call_command("config", *words, stdout=output, stderr=output)
    return output.getvalue()


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("direct", {"disable_ipv6": True}),
        ("smtp", {"host": "relay.example"}),
        ("smtp", {"host": "192.0.2.1", "port": 2525, "no_starttls": True}),
        ("submission", {"host": "relay.example", "username": "us", "password": b"secret", "mechanisms": ["PLAIN"]}),
        ("submissions", {"host": "relay.example"}),
        ("socks", {"socks_address": "proxy.example:1080", "socks_remote_ips": ["192.0.2.7"], "disable_ipv6": True}),
        ("socks", {"socks_address": "[::1]:1080", "username": "us", "password": b"secret"}),
        ("fail", {"fail_code": 451, "fail_message": "not now"}),
    ],
)
def test_each_kind_of_transport_is_taken(name: str, kind: str, values: dict[str, Any]) -> None:
    add_transport(name, kind=kind, **values)
    assert Transport.objects.get(name=name).kind == kind


@pytest.mark.parametrize(
    ("kind", "values", "error"),
    [
        ("pigeon", {}, "kind: "),
        ("direct", {"disable_ipv4": True, "disable_ipv6": True}, "disable_ipv6: both IPv4 and IPv6 are disabled"),
        ("direct", {"host": "a.example"}, "host: has no meaning for a transport of kind direct"),
        ("direct", {"password": b"x"}, "password: has no meaning"),
        ("smtp", {}, "host: name the host of the relay"),
        ("smtp", {"host": "a b"}, "host: 'a b' is no host"),
        ("smtp", {"host": "a.example", "port": 0}, "port: 0 is no port"),
        ("smtp", {"host": "a.example", "port": 65536}, "port: 65536 is no port"),
        (
            "smtp",
            {"host": "a.example", "no_starttls": True, "starttls_insecure_skip_verify": True},
            "starttls_insecure_skip_verify: without STARTTLS there is nothing to verify",
        ),
        (
            "submissions",
            {"host": "a.example", "no_starttls": True},
            'no_starttls: submissions is TLS from the start: "no STARTTLS" does not apply',
        ),
        (
            "submissions",
            {"host": "a.example", "starttls_insecure_skip_verify": True},
            "starttls_insecure_skip_verify: submissions is TLS from the start",
        ),
        ("smtp", {"host": "a.example", "username": "us"}, "password: a user name needs a password"),
        ("smtp", {"host": "a.example", "password": b"x"}, "username: a password needs a user name"),
        (
            "smtp",
            {"host": "a.example", "username": "us", "password": b"x", "mechanisms": ["DIGEST-MD5"]},
            "mechanisms: unknown mechanism DIGEST-MD5: use some of SCRAM-SHA-256-PLUS",
        ),
        (
            "smtp",
            {"host": "a.example", "username": "us", "password": b"x", "mechanisms": ["plain", "PLAIN"]},
            "mechanisms: a mechanism is named twice",
        ),
        ("smtp", {"host": "a.example", "mechanisms": ["PLAIN"]}, "username: mechanisms are for logging in"),
        ("smtp", {"host": "a.example", "mechanisms": "PLAIN"}, "mechanisms: use a list of names"),
        ("socks", {}, "socks_address: '' is no address of a proxy: use host:port"),
        ("socks", {"socks_address": "proxy.example"}, "socks_address: 'proxy.example' is no address of a proxy"),
        ("socks", {"socks_address": "::1:1080"}, "socks_address: '::1:1080': put brackets around the IPv6 address"),
        ("socks", {"socks_address": "a..b:1080"}, "socks_address: 'a..b:1080': empty label"),
        ("socks", {"socks_address": "a.example:99999999999"}, "socks_address: "),
        ("socks", {"socks_address": "a.example:1", "socks_remote_ips": ["x"]}, "socks_remote_ips: 'x' is not an IP"),
        (
            "socks",
            {"socks_address": "a.example:1", "socks_remote_ips": ["::1", "0::1"]},
            "socks_remote_ips: 0::1 is named twice",
        ),
        (
            "socks",
            {"socks_address": "a.example:1", "socks_remote_hostname": "a b"},
            "socks_remote_hostname: 'a b' is not a domain",
        ),
        (
            "socks",
            {"socks_address": "a.example:1", "username": "ü" * 200, "password": b"x"},
            "user name for the SOCKS proxy is longer than 255 bytes",
        ),
        ("fail", {"fail_code": 250}, "fail_code: 250 is no code of a failure: use one from 400 to 599"),
        ("fail", {"fail_message": "a\r\nb"}, "fail_message: the text must be ASCII without control characters"),
        ("fail", {"fail_message": "ü"}, "fail_message: the text must be ASCII"),
        ("fail", {"fail_message": "x" * 257}, "fail_message: "),
    ],
)
def test_other_transports_are_refused_by_field(name: str, kind: str, values: dict[str, Any], error: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        add_transport(name, kind=kind, **values)
    assert str(caught.value).startswith(f'transport "{name}": ')
    assert error in str(caught.value)
    assert not Transport.objects.filter(name=name).exists()


@pytest.mark.parametrize("name", ["", "a b", "a/b", "x" * 65, "ü"])
def test_names_that_make_no_sense_are_refused(name: str) -> None:
    with pytest.raises(ConfigurationError, match="name: "):
        add_transport(name, kind="direct")


def test_a_name_is_taken_once(name: str) -> None:
    add_transport(name, kind="direct")
    with pytest.raises(ConfigurationError, match="name: Transport with this Name already exists"):
        add_transport(name, kind="direct")


def test_names_are_kept_as_they_are_compared(name: str) -> None:
    transport = add_transport(
        name, kind="submission", host="Bücher.Example", username="us", password=b"x", mechanisms=["scram-sha-256"]
    )
    assert (transport.host, transport.mechanisms) == ("xn--bcher-kva.example", ["SCRAM-SHA-256"])


def test_a_change_keeps_the_rest_and_the_rules(name: str) -> None:
    add_transport(name, kind="smtp", host="a.example", username="us", password=b"secret")
    change_transport(name, host="b.example")
    transport = Transport.objects.get(name=name)
    assert (transport.host, bytes(transport.password)) == ("b.example", b"secret")
    with pytest.raises(ConfigurationError, match="port: 0 is no port"):
        change_transport(name, port=0)
    with pytest.raises(ConfigurationError, match="does not exist"):
        change_transport("nope", port=25)


def test_a_transport_that_is_in_use_stays(name: str, account: Account) -> None:
    add_transport(name, kind="smtp", host="a.example")
    save_routes([RouteSettings(), RouteSettings(transport=name)], account=account)
    (queue_id,) = send(account, "them@far.example")
    QueueMessage.objects.filter(pk=queue_id).update(transport=name, hold=True)
    with pytest.raises(ConfigurationError) as caught:
        remove_transport(name)
    assert str(caught.value) == (
        f'transport "{name}" is in use: route 2 of {account} over {name}; '
        f"1 queued messages: mox queue transport --transport {name} NAME"
    )
    save_routes([], account=account)
    with pytest.raises(ConfigurationError, match="1 queued messages"):
        remove_transport(name)
    QueueMessage.objects.filter(pk=queue_id).delete()
    remove_transport(name)
    assert not Transport.objects.filter(name=name).exists()


# Routes.


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        (RouteSettings(transport="nope"), 'route 2 (global): transport "nope" does not exist'),
        (RouteSettings(from_domains=["a..b"]), "route 2 (global): from_domains: 'a..b' is not a domain"),
        (RouteSettings(to_domains=[".example.org", "them@far.example"]), "to_domains: 'them@far.example' is not"),
        (RouteSettings(to_domains=["..example"]), "to_domains: '..example' is not a domain"),
        (RouteSettings(to_domains=[""]), "to_domains: '' is not a domain"),
        (RouteSettings(minimum_attempts=-1), "minimum_attempts: "),
    ],
)
def test_routes_are_saved_all_or_none(name: str, settings: RouteSettings, error: str) -> None:
    save_routes([RouteSettings(to_domains=["kept.example"])])
    with pytest.raises(ConfigurationError) as caught:
        save_routes([RouteSettings(), settings])
    assert error in str(caught.value)
    (route,) = routes_of()
    assert route.to_domains == ["kept.example"]


def test_domains_of_routes_are_compared_as_a_labels(account: Account) -> None:
    save_routes([RouteSettings(["Bücher.example", "."], [".Far.Example", ".far.example"], 2)], account=account)
    (route,) = routes_of(account=account)
    assert (route.from_domains, route.to_domains) == (["xn--bcher-kva.example", "."], [".far.example"])


def test_the_first_route_that_matches_counts(account: Account, name: str) -> None:
    for number in range(5):
        add_transport(f"{name}-{number}", kind="smtp", host=f"{number}.example")
    hosted = domains.add_domain(f"{name}.example", account.name).domain

    def taken(recipient: str, sender: str = hosted.name, attempts: int = 0, of: int | None = account.pk) -> str:
        transport = routing.way(of, sender, recipient, attempts, "").transport
        return transport.name.removeprefix(f"{name}-") if transport else "direct"

    save_routes(
        [
            RouteSettings(to_domains=["far.example"], minimum_attempts=2, transport=f"{name}-0"),
            RouteSettings(to_domains=[".sub.example"], transport=f"{name}-1"),
            RouteSettings(to_domains=["direct.example"]),
        ],
        account=account,
    )
    save_routes([RouteSettings(to_domains=[".example"], transport=f"{name}-2")], domain=hosted)
    save_routes(
        [
            RouteSettings(from_domains=["."], to_domains=["far.test"], transport=f"{name}-3"),
            RouteSettings(from_domains=[hosted.name], transport=f"{name}-4"),
        ]
    )
    assert [taken("far.example", attempts=attempts) for attempts in (0, 1, 2)] == ["2", "2", "0"]
    assert [taken(to) for to in ("sub.example", "a.sub.example", "xsub.example")] == ["1", "1", "2"]
    assert taken("direct.example") == "direct"
    assert taken("direct.example", of=None) == "2"
    assert taken("far.test") == taken("far.test", sender="") == "3"
    assert taken("other.test") == "4"
    assert taken("other.test", sender="other.example") == "direct"


def test_commands_configure_transports_and_routes(name: str, monkeypatch: pytest.MonkeyPatch, account: Account) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("secret\n"))
    config(
        *("transport", "add", name, "submission", "--host", "relay.example", "--username", "us"),
        *("--mechanisms", "scram-sha-256,PLAIN", "--port", "2587"),
    )
    config("transport", "set", name, "--starttls-insecure-skip-verify")
    listed = next(row for row in json.loads(config("transport", "list", "--json")) if row["name"] == name)
    assert listed["mechanisms"] == ["SCRAM-SHA-256", "PLAIN"]
    assert (listed["port"], listed["starttls_insecure_skip_verify"]) == (2587, True)
    assert "secret" not in json.dumps(listed) + config("transport", "list")
    assert bytes(Transport.objects.get(name=name).password) == b"secret"
    config("transport", "set", name, "--no-starttls-insecure-skip-verify")
    assert not Transport.objects.get(name=name).starttls_insecure_skip_verify
    with pytest.raises(CommandError, match="port: 0 is no port"):
        config("transport", "set", name, "--port", "0")

    scope = ("--account", account.name)
    config("route", "add", name, *scope, "--to", "far.example,.other.example", "--minimum-attempts", "2")
    config("route", "add", *scope, "--to", "direct.example", "--position", "1")
    listed_routes = json.loads(config("route", "list", *scope, "--json"))
    assert [(route["position"], route["transport"], route["to_domains"]) for route in listed_routes] == [
        (1, "", ["direct.example"]),
        (2, name, ["far.example", ".other.example"]),
    ]
    assert f"2 {name}" in config("route", "list", *scope)
    with pytest.raises(CommandError, match="is in use"):
        config("transport", "rm", name)
    with pytest.raises(CommandError, match="there is no route 3"):
        config("route", "rm", *scope, "3")
    with pytest.raises(CommandError, match="use a number from 1 to 3"):
        config("route", "add", *scope, "--position", "9")
    config("route", "rm", *scope, "2")
    config("transport", "rm", name)
    assert Route.objects.filter(account=account).count() == 1
