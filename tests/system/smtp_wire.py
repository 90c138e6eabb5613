"""Talking SMTP by hand: replies as they come over the wire, and conversations that are written down.

    play(wire, '''
        S: 220 localhost ESMTP mox
        C: EHLO client.example
        S: 250-localhost
        S: ...
        C: QUIT
        S: 221 2.0.0 ...
        S: <closed>
    ''')

C lines that follow each other leave in one write; `C>` is a line whose end is written out (`C> RSET\\n`). In an S line
`...` stands for anything; alone it stands for the rest of a reply.
"""

from __future__ import annotations

import base64
import re
import socket
import ssl
from pathlib import Path
from typing import Self

from protocols.sasl.channel_binding import ChannelBinding, channel_binding
from protocols.sasl.client import ClientMechanism, SaslClientError
from tests.system.servers import source_ip

TIMEOUT = 20.0  # seconds: far more than anything here takes, so that a hang fails the test
REPLY_LINE = re.compile(r"(\d{3})([- ])(?:(\d\.\d{1,3}\.\d{1,3}) )?(.*)", re.DOTALL)


class Wire:
    """A client's connection, from an address of its own unless it is given."""

    def __init__(self, ip: str, port: int, source: str | None = None) -> None:
        source_address = (source or source_ip(), 0)
        self.sock: socket.socket = socket.create_connection((ip, port), TIMEOUT, source_address=source_address)
        self._buffer = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.sock.close()

    def send(self, data: str | bytes) -> None:
        self.sock.sendall(data.encode() if isinstance(data, str) else data)

    def line(self) -> str:
        """The next line without its CRLF. "" at the end of the connection."""
        while b"\n" not in self._buffer:
            try:
                data = self.sock.recv(65536)
            except ConnectionResetError:
                data = b""
            if not data:
                assert not self._buffer, f"the connection ended within a line: {self._buffer!r}"
                return ""
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        assert line.endswith(b"\r"), f"a line of the server ends in a bare LF: {line!r}"
        return line[:-1].decode("ascii")

    def reply(self) -> list[str]:
        """The lines of the next reply: codes agree, and each is of the right form."""
        lines: list[str] = []
        while True:
            line = self.line()
            assert line, f"the connection ended within a reply: {lines}"
            lines.append(line)
            match = REPLY_LINE.fullmatch(line)
            assert match is not None, f"{line!r} is no line of a reply"
            assert len(line) <= 510
            assert match[1] == lines[0][:3]
            assert match[3] is None or match[3][0] == match[1][0], f"{line!r}: the codes are of different classes"
            if match[2] == " ":
                return lines

    def command(self, line: str) -> str:
        """Send a command; the last line of its reply."""
        self.send(f"{line}\r\n")
        return self.reply()[-1]

    def hello(self) -> Self:
        """Past the greeting and EHLO."""
        assert self.reply()[0].startswith("220 ")
        assert self.command("EHLO client.example").startswith("250 ")
        return self

    def begin(self, *recipients: str, sender: str = "sender@remote.example") -> Self:
        """Past MAIL and RCPT."""
        assert self.command(f"MAIL FROM:<{sender}>").startswith("250 ")
        for recipient in recipients:
            assert self.command(f"RCPT TO:<{recipient}>").startswith("250 ")
        return self

    def data(self, content: bytes) -> str:
        """DATA and content that has its end and its dots already; the last line of the final reply."""
        assert self.command("DATA").startswith("354 ")
        self.send(content)
        return self.reply()[-1]

    def is_closed(self) -> bool:
        """Whether the server closes the connection, and says nothing before."""
        return self.line() == ""

    def start_tls(self, certificate: Path, version: ssl.TLSVersion | None = None) -> Self:
        """The handshake, after the 220, or at once where TLS comes first; ``version``: no other one."""
        assert self._buffer == b"", "the server said more than 220 before the handshake"
        context = ssl.create_default_context(cafile=str(certificate))
        if version is not None:
            context.minimum_version = context.maximum_version = version
        self.sock = context.wrap_socket(self.sock, server_hostname="localhost")
        return self

    def channel_binding(self) -> ChannelBinding:
        assert isinstance(self.sock, ssl.SSLSocket)
        return channel_binding(self.sock, self.sock.getpeercert(binary_form=True))

    def authenticate(self, mechanism: ClientMechanism, *, initial: bool = True) -> str:
        """AUTH to its end; the last line of its reply. The initial response goes along, or is asked for."""
        line, pending = f"AUTH {mechanism.name}", mechanism.next(None).data
        if initial and pending is not None:
            line += f" {base64.b64encode(pending).decode() or '='}"
            pending = None
        reply = self.command(line)
        while reply.startswith("334 "):
            if pending is None:
                try:
                    pending = mechanism.next(base64.b64decode(reply[4:], validate=True)).data
                except SaslClientError:
                    pending = b""  # the server's error; RFC 5802 5.1: the exchange ends with its answer
            reply = self.command(base64.b64encode(pending or b"").decode())
            pending = None
        return reply


def play(wire: Wire, script: str) -> None:
    """Hold the conversation; an answer that is not the written one fails."""
    lines = [line.strip() for line in script.strip().splitlines() if line.strip()]
    sending: list[bytes] = []
    anything = False
    for line in lines:
        kind, _, text = line.partition(" ")
        if kind in ("C:", "C>"):
            if anything:
                _rest_of_reply(wire)
                anything = False
            ended = f"{text}\r\n" if kind == "C:" else text.encode().decode("unicode_escape")
            sending.append(ended.encode())
            continue
        assert kind == "S:", f"{line!r} is no line of a conversation"
        if sending:
            wire.send(b"".join(sending))
            sending.clear()
        if text == "<closed>":
            assert wire.is_closed(), "the connection is still open"
        elif text == "...":
            anything = True
        else:
            said = wire.line()
            pattern = ".*".join(map(re.escape, text.split("...")))
            assert re.fullmatch(pattern, said), f"the server said {said!r}, expected was {text!r}"
    if anything:
        _rest_of_reply(wire)


def _rest_of_reply(wire: Wire) -> None:
    while wire.line()[3:4] == "-":
        pass
