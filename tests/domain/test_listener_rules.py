"""What listeners and server settings may be: every bad value is named, with the remedy, and all at once."""

from __future__ import annotations

from typing import Any

import pytest
from django.core.exceptions import ValidationError

from server.listener_rules import listener_problems
from server.models import EndpointKind, Listener, ListenerEndpoint, ServerSettings


def a_listener(**values: Any) -> Listener:
    return Listener(**{"name": "L", "ips": ["192.0.2.1"], "tls_mode": "manual", **values})


def an_endpoint(kind: str = "webmail", **values: Any) -> ListenerEndpoint:
    return ListenerEndpoint(**{"kind": kind, "path": f"/{kind}/", "port": 80, **values})


def texts(listener: Listener, *endpoints: ListenerEndpoint, others: list[Listener] | None = None) -> list[str]:
    return [p.text for p in listener_problems(listener, endpoints, [(other, []) for other in others or []])]


def test_a_common_listener_is_fine() -> None:
    listener = a_listener(smtp_enabled=True, submissions_enabled=True, imaps_enabled=True)
    endpoints = [an_endpoint(tls=tls, port=port) for tls, port in ((False, 80), (True, 443))]
    endpoints += [an_endpoint("admin"), an_endpoint("admin", tls=True, port=443), an_endpoint("account", path="/")]
    assert texts(listener, *endpoints) == []


@pytest.mark.parametrize(
    ("values", "field", "text"),
    [
        ({"ips": []}, "ips", "listener L has no address: name one, or 0.0.0.0 or :: for all"),
        ({"ips": ["192.0.2.300"]}, "ips", "'192.0.2.300' is not an IP address"),
        ({"ips": ["192.0.2.1", "192.0.2.1"]}, "ips", "an address is named twice"),
        ({"ips": ["0.0.0.0", "192.0.2.1"]}, "ips", "0.0.0.0 covers 192.0.2.1 already: address in use; name either"),
        ({"nat_ips": ["127.0.0.1"]}, "nat_ips", "127.0.0.1 cannot be a public address"),
        ({"nat_ips": ["198.51.100.1"], "ips_nated": True}, "ips_nated", "not both"),
        (
            {"tls_mode": "none", "imaps_enabled": True, "submissions_enabled": True},
            "tls_mode",
            "listener L needs TLS for IMAPS, submissions: choose an ACME provider or certificates",
        ),
        ({"tls_mode": "none", "smtp_require_starttls": True}, "tls_mode", "requires STARTTLS for SMTP but has no TLS"),
        ({"hostname": "not a name"}, "hostname", "'not a name' is not a domain name"),
        ({"smtp_port": 70000}, "smtp_port", "less than or equal to 65535"),
        ({"imap_port": 0}, "imap_port", "greater than or equal to 1"),
        ({"tls_min_version": "SSLv3"}, "tls_min_version", "'SSLv3' is not a valid choice"),
        ({"max_message_size": 0}, "max_message_size", "greater than or equal to 1"),
    ],
)
def test_a_bad_value_is_named_at_its_field(values: dict[str, Any], field: str, text: str) -> None:
    with pytest.raises(ValidationError) as caught:
        a_listener(**values).full_clean(validate_unique=False, validate_constraints=False)
    assert list(caught.value.message_dict) == [field]
    assert text in " ".join(caught.value.message_dict[field])


def test_all_problems_are_told_at_once() -> None:
    with pytest.raises(ValidationError) as caught:
        a_listener(ips=["x"], nat_ips=["::"], hostname="-", smtp_port=0).full_clean(
            validate_unique=False, validate_constraints=False
        )
    assert {"ips", "nat_ips", "hostname", "smtp_port"} == set(caught.value.message_dict)


def test_two_services_cannot_have_one_port() -> None:
    listener = a_listener(smtp_enabled=True, imap_enabled=True, imap_port=25)
    assert texts(listener) == ["port 25 is for both SMTP and IMAP: choose another for one"]
    listener = a_listener(smtp_enabled=True, smtp_port=80)
    assert texts(listener, an_endpoint()) == ["port 80 is for both SMTP and HTTP: choose another for one"]


def test_endpoints_of_one_port_agree_on_tls_and_differ_in_path() -> None:
    mixed = texts(a_listener(), an_endpoint(), an_endpoint("admin", tls=True, port=80))
    assert mixed == ["port 80 is for both HTTP and HTTPS: choose another for one"]
    same = texts(a_listener(), an_endpoint(), an_endpoint("admin", path="/webmail"))
    assert same == ["admin and webmail have the same path /webmail on port 80"]


def test_https_needs_tls() -> None:
    found = texts(a_listener(tls_mode="none"), an_endpoint(tls=True, port=443))
    assert found == ["listener L needs TLS for webmail HTTPS: choose an ACME provider or certificates"]


@pytest.mark.parametrize("path", ["webmail/", "/a//b/", "/a/../b/", "/a\x01/"])
def test_a_path_is_absolute_and_plain(path: str) -> None:
    assert len(texts(a_listener(), an_endpoint(path=path))) == 1


@pytest.mark.parametrize("kind", ["metrics", "profiling"])
def test_metrics_are_not_shown_to_everybody_by_accident(kind: str) -> None:
    for ip in ("0.0.0.0", "::", "8.8.8.8"):
        assert "allow it (allow_public)" in texts(a_listener(ips=[ip]), an_endpoint(kind))[0]
        assert texts(a_listener(ips=[ip]), an_endpoint(kind, allow_public=True)) == []
    assert texts(a_listener(ips=["127.0.0.1", "::1", "10.0.0.1"]), an_endpoint(kind)) == []


def test_two_listeners_cannot_have_one_address_and_port() -> None:
    other = a_listener(name="other", smtp_enabled=True)
    assert texts(a_listener(smtp_enabled=True), others=[other]) == [
        "192.0.2.1:25 for SMTP: listener other has 192.0.2.1:25 for SMTP; choose another address or port"
    ]
    every = a_listener(name="every", ips=["0.0.0.0"], smtp_enabled=True)
    assert "listener every has 0.0.0.0:25" in texts(a_listener(smtp_enabled=True), others=[every])[0]
    assert texts(a_listener(smtp_enabled=True, smtp_port=26), others=[other]) == []
    assert texts(a_listener(smtp_enabled=True, ips=["::"]), others=[every]) == []
    assert texts(a_listener(smtp_enabled=True, node="a"), others=[a_listener(smtp_enabled=True, node="b")]) == []


def test_a_disabled_endpoint_takes_nothing() -> None:
    listener = a_listener(smtp_enabled=True, smtp_port=80)
    assert texts(listener, an_endpoint(enabled=False)) == []


def test_names_are_kept_as_dns_has_them() -> None:
    listener = a_listener(hostname="Bücher.Example")
    listener.clean()
    assert listener.hostname == "xn--bcher-kva.example"


def test_a_path_gets_its_final_slash(database: None) -> None:
    endpoint = an_endpoint(path="/mail", listener=a_listener())
    endpoint.clean()
    assert endpoint.path == "/mail/"


@pytest.mark.parametrize(
    ("values", "field", "text"),
    [
        ({"hostname": "a b"}, "hostname", "'a b' is not a domain name"),
        ({"initial_mailboxes": []}, "initial_mailboxes", "use a name per role"),
        ({"initial_mailboxes": {"sent": "INBOX"}}, "initial_mailboxes", "Inbox is there always"),
        ({"initial_mailboxes": {"spam": "Spam"}}, "initial_mailboxes", "unknown role spam"),
        ({"initial_mailboxes": {"sent": "A", "trash": "A"}}, "initial_mailboxes", "twice"),
        ({"initial_mailboxes": {"regular": [3]}}, "initial_mailboxes", "not empty"),
        ({"log_levels": {"smtp": "loud"}}, "log_levels", "unknown level loud: use one of error, warn"),
        ({"log_level": "loud"}, "log_level", "'loud' is not a valid choice"),
        ({"extra_ca_pem": "nonsense"}, "extra_ca_pem", "no certificate in PEM form"),
        ({"extra_ca_only": True}, "extra_ca_only", "add some to extra_ca_pem first"),
    ],
)
def test_bad_server_settings_are_named_at_their_field(values: dict[str, Any], field: str, text: str) -> None:
    with pytest.raises(ValidationError) as caught:
        ServerSettings(**{"hostname": "mail.example", **values}).full_clean(
            validate_unique=False, validate_constraints=False
        )
    assert text in " ".join(caught.value.message_dict[field])


def test_every_kind_of_endpoint_is_told_apart(database: None) -> None:
    listener = Listener.objects.get(name="local")
    assert texts(listener, *listener.endpoints.all()) == []  # what localserve makes keeps the rules
    assert {e.kind for e in listener.endpoints.all()} <= set(EndpointKind.values)
