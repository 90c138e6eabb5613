"""An HTTP client that keeps cookies as a browser does, and shows everything else."""

from __future__ import annotations

import contextlib
import http.client
import json
import ssl
import time
from collections.abc import Iterator
from dataclasses import dataclass
from http.cookies import Morsel, SimpleCookie
from typing import Any
from urllib.parse import urlencode

from server.models import ListenerEndpoint
from tests.system.servers import Server, source_ip

WEBMAIL = "/webmail/"
ADMIN = "/admin/"


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back. Header names in lower case; several of one name are joined."""

    status: int
    headers: dict[str, str]
    content: bytes
    set_cookies: dict[str, Morsel[str]]

    @property
    def text(self) -> str:
        return self.content.decode()

    @property
    def json(self) -> Any:
        return json.loads(self.content)

    @property
    def error(self) -> tuple[int, str, str]:
        """Status, code and message of a call that was not done."""
        error = self.json["error"]
        return self.status, error["code"], error["message"]


class WebClient:
    """Requests to one server, from an address of its own unless one is given."""

    def __init__(self, server: Server, *, tls: bool = False, source: str = "") -> None:
        self.server = server
        self.source = source or source_ip()
        self.tls = tls
        self.cookies: dict[str, str] = {}
        self.csrf = ""

    def request(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
        *,
        port: int | None = None,
    ) -> Answer:
        source = (self.source, 0)
        if self.tls:
            context = ssl.create_default_context(cafile=str(self.server.certificate))
            context.check_hostname = False  # the tests' servers have addresses that no certificate names
            connection: http.client.HTTPConnection = http.client.HTTPSConnection(
                self.server.ip, port or self.server.https_port, timeout=30, source_address=source, context=context
            )
        else:
            connection = http.client.HTTPConnection(
                self.server.ip, port or self.server.http_port, timeout=30, source_address=source
            )
        sent = dict(headers or {})
        if self.cookies:
            sent.setdefault("Cookie", "; ".join(f"{name}={value}" for name, value in self.cookies.items()))
        try:
            connection.request(method, path, body, sent)
            response = connection.getresponse()
            answer = _answer(response)
        finally:
            connection.close()
        for name, morsel in answer.set_cookies.items():
            if morsel["max-age"] == "0":
                self.cookies.pop(name, None)
            else:
                self.cookies[name] = morsel.value
        return answer

    def get(self, path: str, **headers: str) -> Answer:
        return self.request("GET", path, headers=headers)

    def post(self, path: str, value: Any = None, **headers: str) -> Answer:
        """A call: the value as JSON, with the CSRF token if there was a login."""
        if self.csrf:
            headers.setdefault("x-mox-csrf", self.csrf)
        if value is None:
            return self.request("POST", path, headers=headers)
        return self.request("POST", path, json.dumps(value).encode(), {"Content-Type": "application/json", **headers})

    def submit(self, path: str, **fields: str) -> Answer:
        """A form."""
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        return self.request("POST", path, urlencode(fields).encode(), headers)

    def log_in(self, username: str, password: str, base: str = WEBMAIL, **headers: str) -> Answer:
        """Both steps."""
        token = self.post(f"{base}login/prepare", **headers).json["login_token"]
        given = {"login_token": token, "username": username, "password": password}
        answer = self.post(f"{base}login", given, **headers)
        if answer.status == 200:
            self.csrf = answer.json["csrf_token"]
        return answer


def _answer(response: http.client.HTTPResponse) -> Answer:
    headers: dict[str, str] = {}
    cookies: SimpleCookie = SimpleCookie()
    for name, value in response.getheaders():
        if name.lower() == "set-cookie":
            cookies.load(value)
        else:
            headers[name.lower()] = value
    return Answer(response.status, headers, response.read(), dict(cookies))


POLL = 0.1  # seconds between looks: requests are limited, and a quick machine makes hundreds in a second


@contextlib.contextmanager
def changed(kind: str, **values: object) -> Iterator[None]:
    """The plain HTTP endpoint of a kind with other settings, for a while."""
    endpoint = ListenerEndpoint.objects.filter(listener__name="local", kind=kind, tls=False)
    before = endpoint.values(*values).get()
    endpoint.update(**values)
    try:
        yield
    finally:
        endpoint.update(**before)


def wait_for(client: WebClient, path: str, status: int) -> None:
    """Until a changed setting is in force: each web process looks at them once a second."""
    deadline = time.monotonic() + 20
    in_a_row = 0
    while in_a_row < 8:  # whichever process answers
        answered = client.get(path).status
        if answered == status:
            in_a_row += 1
            continue
        in_a_row = 0
        assert time.monotonic() < deadline, f"{path} is answered with {answered}, not {status}"
        time.sleep(POLL)
