"""Which socket serves what, over which TLS, with which headers; and what no client may do to it."""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from ipaddress import ip_address
from pathlib import Path

import pytest

from mox_project import localserve
from server.models import ServerSettings
from server.selfsigned import make_self_signed
from server.version import VERSION
from tests.system.servers import Server
from tests.system.web.client import ADMIN, WEBMAIL, Answer, WebClient, changed, wait_for
from web.listeners import SNAPSHOT_AGE

OwnServer = Callable[[], Server]

POLICY = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:"


@pytest.fixture
def client(server: Server) -> WebClient:
    return WebClient(server)


def raw(server: Server, data: bytes, port: int | None = None) -> bytes:
    """What comes back for these bytes, until the server closes."""
    with server.connect(port or server.http_port) as sock:
        sock.sendall(data)
        answer = b""
        while block := sock.recv(65536):
            answer += block
    return answer


@pytest.mark.parametrize(
    ("path", "status"),
    [
        (WEBMAIL, 200),
        (ADMIN, 302),
        (f"{ADMIN}django/", 403),
        ("/", 404),
        ("/metrics", 404),
        ("/healthz", 404),
        ("/webmail/metrics", 404),
        ("/webmail/django/", 404),
        ("/account/", 404),
    ],
)
def test_pages_are_on_the_web_ports(server: Server, path: str, status: int) -> None:
    for client in (WebClient(server), WebClient(server, tls=True)):
        assert client.get(path).status == status


@pytest.mark.parametrize(
    ("path", "status"), [("/", 200), ("/metrics", 200), ("/healthz", 200), (WEBMAIL, 404), (ADMIN, 404), ("/x", 404)]
)
def test_the_metrics_port_serves_nothing_else(client: WebClient, path: str, status: int) -> None:
    assert client.request("GET", path, port=client.server.metrics_port).status == status


def test_an_endpoint_that_is_switched_off_is_gone_without_a_restart(client: WebClient) -> None:
    with changed("admin", enabled=False):
        wait_for(client, f"{ADMIN}django/", 404)
        assert client.get(WEBMAIL).status == 200
        assert WebClient(client.server, tls=True).get(f"{ADMIN}django/").status == 403, "the other is still there"
    wait_for(client, f"{ADMIN}django/", 403)


def test_a_path_can_be_changed_and_everything_follows(client: WebClient) -> None:
    with changed("webmail", path="/post/office/"):
        wait_for(client, "/post/office/", 200)
        page = client.get("/post/office/").text
        assert 'data-base="/post/office/"' in page
        assert 'href="/post/office/static/web/mox.' in page
        assert client.post("/post/office/login/prepare").set_cookies["webmaillogin"]["path"] == "/post/office/"
        assert client.get(WEBMAIL).status == 404
    wait_for(client, WEBMAIL, 200)


def test_a_path_without_its_slash_is_redirected(client: WebClient) -> None:
    answer = client.get("/webmail?x=1")
    assert (answer.status, answer.headers["location"]) == (303, "/webmail/?x=1")


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/webmail/../../etc/passwd", 404),
        ("/webmail/%2e%2e/%2e%2e/etc/passwd", 404),
        ("/webmail/static/../../../mox_project/settings.py", 404),
        ("/webmail/static/%2e%2e/settings.py", 404),
        ("/webmail/%00", 400),
        ("/webmail/%ff", 400),
        ("/webmail/" + "x" * 5000, 404),
        ("/webmail/" + "x" * 9000, 414),
        ("/admin/../webmail/", 200),
    ],
)
def test_odd_paths_are_no_way_out(client: WebClient, path: str, status: int) -> None:
    assert client.get(path).status == status


def test_pages_have_strict_headers(client: WebClient) -> None:
    for path in (WEBMAIL, f"{WEBMAIL}nothing", f"{ADMIN}django/", ADMIN):
        headers = client.get(path).headers
        assert headers["x-frame-options"] == "deny"
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "same-origin"
        assert headers["cache-control"] == "no-store"
        policy = headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'; ")
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        assert not any(name.startswith("access-control-") for name in headers), "no other site reads answers"
        assert "server" not in headers
    assert "require-trusted-types-for 'script'" in client.get(WEBMAIL).headers["content-security-policy"]


def test_the_login_page_does_not_tell_the_version(client: WebClient) -> None:
    answer = client.get(WEBMAIL)
    assert VERSION not in answer.text
    assert VERSION not in str(answer.headers)


def test_static_files_are_kept_for_good_and_compressed(client: WebClient) -> None:
    page = client.get(WEBMAIL).text
    address = page.split('rel="stylesheet" href="')[1].split('"')[0]
    plain = client.get(address)
    assert plain.headers["cache-control"] == "public, max-age=31536000, immutable"
    assert plain.headers["content-type"] == "text/css; charset=utf-8"
    compressed = client.request("GET", address, headers={"Accept-Encoding": "gzip, br"})
    assert compressed.headers["content-encoding"] == "gzip"
    assert len(compressed.content) < len(plain.content) / 3
    head = client.request("HEAD", address)
    assert (head.status, head.content) == (200, b"")
    assert client.request("POST", address).status == 405


def test_static_files_have_no_other_names(client: WebClient) -> None:
    assert client.get(f"{WEBMAIL}static/web/mox.css").status == 404, "a name without hash could be stale"
    admin = client.get(f"{ADMIN}django/").text
    address = admin.split('rel="stylesheet" href="')[1].split('"')[0]
    assert client.get(address).status == 200
    assert client.get(f"{WEBMAIL}static/admin/css/base.css").status == 404


def test_modules_name_the_hashed_modules_that_they_import(client: WebClient) -> None:
    page = client.get(WEBMAIL).text
    module = page.split('type="module" src="')[1].split('"')[0]
    source = client.get(module).text
    imported = source.split("from './")[1].split("'")[0] if "from './" in source else source.split('from "./')[1]
    assert client.get(f"{module.rsplit('/', 1)[0]}/{imported.split(chr(34))[0]}").status == 200


# TLS.


def test_https_serves_the_certificate_of_the_installation(server: Server) -> None:
    context = ssl.create_default_context(cafile=str(server.certificate))
    context.set_alpn_protocols(["h2", "http/1.1"])
    with server.connect(server.https_port) as sock, context.wrap_socket(sock, server_hostname="localhost") as tls:
        assert tls.version() == "TLSv1.3"
        assert tls.selected_alpn_protocol() == "http/1.1"


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1_1 is deprecated")
def test_old_tls_is_refused_and_the_others_are_served(server: Server) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    context.set_ciphers("DEFAULT:@SECLEVEL=0")
    with server.connect(server.https_port) as sock, pytest.raises((ssl.SSLError, ConnectionError)):
        context.wrap_socket(sock)
    assert WebClient(server, tls=True).get(WEBMAIL).status == 200


def test_plain_http_on_the_https_port_is_told_so(server: Server) -> None:
    answer = raw(server, b"GET /webmail/ HTTP/1.1\r\nHost: x\r\n\r\n", server.https_port)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"plain HTTP request sent to HTTPS port" in answer
    assert raw(server, b"\x00\x01\x02\x03", server.https_port) == b""


def test_a_new_certificate_is_served_at_once(own_server: OwnServer) -> None:
    server = own_server()
    server.start("--ip", server.ip)
    before = ssl.get_server_certificate((server.ip, server.https_port))
    key = server.directory / "localhost.key"
    make_self_signed(server.certificate, key, [localserve.DOMAIN], [ip_address(server.ip)])
    after = ssl.get_server_certificate((server.ip, server.https_port))
    assert before != after == server.certificate.read_text()
    assert server.stop() == 0


# Limits.


def test_more_than_a_mebibyte_is_refused_before_it_is_sent(server: Server) -> None:
    head = b"POST /webmail/login HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    answer = raw(server, head % (1 << 30))
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"connection: close" in answer


def test_more_than_a_mebibyte_is_refused_where_its_size_is_not_told(server: Server) -> None:
    chunk = b"10000\r\n" + b" " * 65536 + b"\r\n"
    with server.connect(server.http_port) as sock:
        sock.sendall(b"POST /webmail/login HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            sock.sendall(chunk * 4096)  # 256 MiB, if anybody took them


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET / HTTP/1.1\r\nHost: x\r\n" + b"".join(b"X-%d: y\r\n" % n for n in range(101)) + b"\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nX-Big: " + b"y" * 70000 + b"\r\n\r\n", b"431"),
        (b"GET / HTTP/1.1\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n", b"400"),
        (b"EHLO mail.example\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", b"400"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", b"400"),
    ],
)
def test_what_is_no_request_ends_the_connection(server: Server, request_: bytes, status: bytes) -> None:
    answer = raw(server, request_.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n", 1))
    assert answer.split(b" ")[1] == status


def test_requests_on_one_connection_are_answered_in_order(server: Server) -> None:
    two = b"GET /webmail HTTP/1.1\r\nHost: x\r\n\r\nGET /nothing HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    answer = raw(server, two)
    assert answer.index(b"303 See Other") < answer.index(b"404 Not Found")


def test_a_client_that_asks_too_often_is_refused(server: Server) -> None:
    client = WebClient(server)

    def ask(_: int) -> int:
        return client.request("GET", "/nothing").status

    with ThreadPoolExecutor(8) as pool:
        statuses = list(pool.map(ask, range(1010)))
    assert statuses.count(404) in (1000, 1010), "1010 only where the minute turned"
    if statuses.count(404) == 1000:
        assert set(statuses) == {404, 429}
    assert WebClient(server).get(WEBMAIL).status == 200, "others are served"


def test_the_limit_can_be_switched_off(server: Server) -> None:
    client = WebClient(server)
    ServerSettings.objects.update(http_rate_limits=False)
    try:
        wait_for(client, "/nothing", 404)
        time.sleep(2 * SNAPSHOT_AGE)  # for every process to have looked
        with ThreadPoolExecutor(8) as pool:
            assert set(pool.map(lambda _: client.get("/nothing").status, range(1100))) == {404}
    finally:
        ServerSettings.objects.update(http_rate_limits=True)


# What is written down.


def metrics(client: WebClient) -> str:
    return client.request("GET", "/metrics", port=client.server.metrics_port).text


def test_requests_are_measured_without_labels_of_the_clients_making(client: WebClient) -> None:
    client.request("BREW", f"{WEBMAIL}teapot")
    client.get(f"{WEBMAIL}teapot")
    text = metrics(client)
    labels = 'code="404",handler="webmail",method="GET",proto="http"'
    assert f"mox_httpserver_request_duration_seconds_count{{{labels}}}" in text
    assert f"mox_httpserver_response_duration_seconds_count{{{labels}}}" in text
    assert 'method="(unknown)"' in text
    assert "teapot" not in text
    assert "BREW" not in text


def log_line(server: Server, text: str) -> str:
    deadline = time.monotonic() + 20
    while not (found := [line for line in server.output if text in line]):
        assert time.monotonic() < deadline
        time.sleep(0.05)  # the line is on its way through a pipe
    return found[-1]


def test_the_log_has_a_line_for_each_request_without_its_secrets(client: WebClient) -> None:
    client.get(f"{WEBMAIL}first-line?token=secret", **{"User-Agent": 'test" level=error'})
    line = log_line(client.server, "first-line")
    for part in (
        "l=info m=request pkg=web cid=",
        "method=GET",
        f'host="{client.server.ip}:1080"' if ":" in client.server.ip else f"host={client.server.ip}:1080",
        "path=/webmail/first-line",
        "proto=HTTP/1.1",
        "status=404",
        "handler=webmail",
        f"remote={client.source}",
        r'user_agent="test\" level=error"',
    ):
        assert part in line
    assert "secret" not in line


def test_the_log_says_who_was_logged_in_and_over_which_tls(server: Server) -> None:
    client = WebClient(server, tls=True)
    client.log_in("mox@localhost", localserve.PASSWORD)
    client.request("GET", f"{WEBMAIL}?second-line", headers={"User-Agent": "second-line"})
    line = log_line(server, "second-line")
    assert "account=mox" in line
    assert 'tls="TLSv1.3 ' in line


def test_other_web_processes_go_on_when_one_is_killed(own_server: OwnServer, tmp_path: Path) -> None:
    server = own_server()
    server.start("--ip", server.ip, env={"MOX_WEB_WORKERS": "2"})
    assert server.child_pid("web-1") != server.child_pid("web-2")

    def ask() -> Answer:
        return WebClient(server).get(WEBMAIL)

    assert {ask().status for _ in range(4)} == {200}
    server.kill_child("web-1")
    server.wait_for_line("child=web-1")
    assert {ask().status for _ in range(4)} == {200}
    assert server.stop() == 0
