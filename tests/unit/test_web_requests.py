"""What a request is before any page looks at it: paths made plain, endpoints, clients behind proxies."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from ipaddress import ip_network

import pytest

from server.models import EndpointKind
from web.requests import BadRequest, Client, Endpoint, clean_path, endpoint_for, forwarded_client
from webmail.views import age

ACCOUNT = Endpoint(EndpointKind.ACCOUNT, "/", forwarded=False)
ADMIN = Endpoint(EndpointKind.ADMIN, "/admin/", forwarded=False)
WEBMAIL = Endpoint(EndpointKind.WEBMAIL, "/webmail/", forwarded=False)


@pytest.mark.parametrize(
    ("raw", "path"),
    [
        (b"", "/"),
        (b"/", "/"),
        (b"/webmail/", "/webmail/"),
        (b"/webmail", "/webmail"),
        (b"//webmail//msg", "/webmail/msg"),
        (b"/webmail/./msg/", "/webmail/msg/"),
        (b"/webmail/../admin/", "/admin/"),
        (b"/../../etc/passwd", "/etc/passwd"),
        (b"/webmail/%2e%2e/admin/", "/admin/"),
        (b"/webmail%2f..%2fadmin%2f", "/admin/"),
        (b"/webmail/..", "/"),
        (b"/a/b/.", "/a/b/"),
        (b"/b%C3%BCcher", "/bücher"),
        (b"http://mail.example/webmail/?x", "/webmail/?x"),
        (b"http://mail.example", "/"),
    ],
)
def test_paths_are_made_plain(raw: bytes, path: str) -> None:
    assert clean_path(raw) == path


@pytest.mark.parametrize("raw", [b"/%00", b"/webmail/%ff", b"*", b"webmail"])
def test_what_is_no_path_is_refused(raw: bytes) -> None:
    with pytest.raises(BadRequest):
        clean_path(raw)


@pytest.mark.parametrize(
    ("path", "endpoint"),
    [("/admin/django/", ADMIN), ("/admin", ADMIN), ("/webmail/", WEBMAIL), ("/administer", ACCOUNT), ("/", ACCOUNT)],
)
def test_the_longest_path_answers(path: str, endpoint: Endpoint) -> None:
    assert endpoint_for(path, [ACCOUNT, WEBMAIL, ADMIN]) is endpoint


def test_without_an_endpoint_for_it_nothing_answers() -> None:
    assert endpoint_for("/", [WEBMAIL]) is None
    assert endpoint_for("/webmailx/", [WEBMAIL]) is None


TRUSTED = (ip_network("10.0.0.0/8"),)


@pytest.mark.parametrize(
    ("chain", "ip"),
    [
        (b"203.0.113.9", "203.0.113.9"),
        (b"198.51.100.1, 203.0.113.9", "203.0.113.9"),  # the first is the client's own claim
        (b"198.51.100.1, 203.0.113.9, 10.1.1.1", "203.0.113.9"),
        (b"10.9.9.9, 10.1.1.1", "10.9.9.9"),
        (b"2001:db8::1", "2001:db8::1"),
    ],
)
def test_the_client_is_the_last_that_is_no_proxy(chain: bytes, ip: str) -> None:
    headers = {b"x-forwarded-for": chain, b"x-forwarded-proto": b"https"}
    assert forwarded_client(Client("127.0.0.1", False), headers, TRUSTED) == Client(ip, True)
    assert forwarded_client(Client("10.2.2.2", False), headers, TRUSTED) == Client(ip, True)


def test_a_stranger_who_sends_the_headers_is_not_believed() -> None:
    headers = {b"x-forwarded-for": b"192.0.2.1", b"x-forwarded-proto": b"https"}
    stranger = Client("203.0.113.66", False)
    assert forwarded_client(stranger, headers, TRUSTED) == stranger


@pytest.mark.parametrize(
    ("headers", "text"),
    [
        ({b"x-forwarded-proto": b"https"}, "X-Forwarded-For is missing"),
        ({b"x-forwarded-for": b"192.0.2.1"}, "X-Forwarded-Proto is missing"),
        ({b"x-forwarded-for": b"unknown", b"x-forwarded-proto": b"https"}, "'unknown', which is not an IP address"),
    ],
)
def test_what_a_proxy_leaves_out_is_named(headers: dict[bytes, bytes], text: str) -> None:
    with pytest.raises(BadRequest, match=text):
        forwarded_client(Client("::1", False), headers, TRUSTED)


@pytest.mark.parametrize(
    ("seconds", "text"), [(-5, "now"), (59, "now"), (60, "1min"), (7200, "2h"), (86400 * 3, "3d"), (86400 * 800, "2y")]
)
def test_ages_are_short(seconds: int, text: str) -> None:
    now = datetime(2026, 3, 1, tzinfo=UTC)
    assert age(now - timedelta(seconds=seconds), now) == text
