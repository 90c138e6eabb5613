"""Form-encoded JSON calls over one kept-alive HTTP/1.1 connection."""

from __future__ import annotations

import base64
import json
from urllib.parse import quote_plus

from .engine import Conn, Loop, Step


class HttpError(Exception):
    """A response other than 200."""


class HttpClient:
    """One connection with basic authentication."""

    def __init__(self, loop: Loop, host: str, port: int, user: str, password: str) -> None:
        self.loop = loop
        self.conn: Conn = loop.connect(host, port)
        token = base64.b64encode(f"{user}:{password}".encode()).decode()
        self._head = (
            f"Host: localhost\r\nAuthorization: Basic {token}\r\nContent-Type: application/x-www-form-urlencoded\r\n"
        )

    def call(self, path: str, request: dict[str, object]) -> Step[bytes]:
        """POST the request as form field ``request``; returns the body."""
        body = b"request=" + quote_plus(json.dumps(request)).encode()
        head = f"POST {path} HTTP/1.1\r\n{self._head}Content-Length: {len(body)}\r\n\r\n".encode()
        yield from self.conn.send(head, body)
        status = yield from self.conn.line()
        length, chunked = 0, False
        while line := (yield from self.conn.line()):
            key, _, value = line.partition(b":")
            if key.lower() == b"content-length":
                length = int(value)
            elif key.lower() == b"transfer-encoding" and b"chunked" in value.lower():
                chunked = True
        if chunked:
            data = b""
            while size := int((yield from self.conn.line()).split(b";")[0], 16):
                data += yield from self.conn.exactly(size)
                yield from self.conn.line()
            yield from self.conn.line()
        else:
            data = yield from self.conn.exactly(length)
        if status.split()[1] != b"200":
            raise HttpError((status + b" " + data).decode("utf-8", "replace")[:200])
        return data

    def close(self) -> None:
        self.loop.close(self.conn)
