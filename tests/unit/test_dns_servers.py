"""Name servers from resolv.conf and from settings: what is taken, what is skipped, whom to trust."""

from __future__ import annotations

from ipaddress import ip_address
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.dns.servers import MAX_SERVERS, NameServer, Servers, SystemServers, parse_resolv_conf, parse_servers

LOCAL = (NameServer(ip_address("127.0.0.1")),)


@pytest.mark.parametrize(
    ("text", "servers", "trust_ad"),
    [
        ("nameserver 192.0.2.53\nnameserver\t2001:db8::53 \n", ["192.0.2.53", "[2001:db8::53]"], False),
        ("nameserver 192.0.2.53\noptions edns0 trust-ad\n", ["192.0.2.53"], True),
        ("options trust-ad\noptions rotate\nnameserver 192.0.2.53", ["192.0.2.53"], True),
        ("# options trust-ad\n; nameserver 192.0.2.1\nnameserver 192.0.2.53\n", ["192.0.2.53"], False),
        (" nameserver 192.0.2.1\n options trust-ad\nnameserver 192.0.2.53\n", ["192.0.2.53"], False),
        ("nameservers 192.0.2.1\noptions no-trust-ad trust-advice\nnameserver 192.0.2.53\n", ["192.0.2.53"], False),
        ("nameserver fe80::1%eth0\r\nnameserver 192.0.2.53\r\n", ["[fe80::1%eth0]", "192.0.2.53"], False),
        ("nameserver dns.example\nnameserver\nnameserver 192.0.2.53 # ours\n", ["192.0.2.53"], False),
        ("".join(f"nameserver 192.0.2.{n}\n" for n in range(9)), ["192.0.2.0", "192.0.2.1", "192.0.2.2"], False),
        ("search example.org\ndomain example.org\n", ["127.0.0.1"], False),
        ("", ["127.0.0.1"], False),
    ],
)
def test_resolv_conf_is_read_as_the_c_library_reads_it(text: str, servers: list[str], trust_ad: bool) -> None:
    found = parse_resolv_conf(text)
    assert ([str(server) for server in found.servers], found.trust_ad) == ([f"{s}:53" for s in servers], trust_ad)


@given(
    st.text() | st.lists(st.sampled_from(["nameserver", "options", "trust-ad", "::1", "\n", " ", "\x00"])).map("".join)
)
def test_any_resolv_conf_gives_servers(text: str) -> None:
    found = parse_resolv_conf(text)
    assert 1 <= len(found.servers) <= MAX_SERVERS


def test_a_changed_file_is_noticed_and_a_missing_one_means_this_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr("protocols.dns.servers.time.monotonic", lambda: now)
    path = tmp_path / "resolv.conf"
    system = SystemServers(path)
    assert system() == Servers(LOCAL)
    path.write_text("nameserver 192.0.2.53\n")
    assert system() == Servers(LOCAL)  # looked a moment ago
    now += 6
    assert system() == Servers((NameServer(ip_address("192.0.2.53")),))
    path.write_bytes(b"\xff\nnameserver 192.0.2.54\noptions trust-ad\n")
    now += 6
    assert system() == Servers((NameServer(ip_address("192.0.2.54")),), trust_ad=True)
    path.unlink()
    now += 6
    assert system() == Servers(LOCAL)


@pytest.mark.parametrize(
    ("text", "servers"),
    [
        ("", []),
        ("192.0.2.53", ["192.0.2.53:53"]),
        (
            "127.0.0.1:5353, [::1]:54 ::1\n[2001:db8::53]",
            ["127.0.0.1:5353", "[::1]:54", "[::1]:53", "[2001:db8::53]:53"],
        ),
    ],
)
def test_servers_are_addresses_with_or_without_a_port(text: str, servers: list[str]) -> None:
    assert [str(server) for server in parse_servers(text)] == servers


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("dns.example", "'dns.example' is no name server: use an ip address or ip:port"),
        ("127.0.0.1:", "'127.0.0.1:' is no name server"),
        ("[::1]5353", "'[::1]5353' is no name server"),
        ("[::1]:", "'[::1]:' is no name server"),
        ("[::1", "'[::1' is no name server"),
        ("::1:99999", "'::1:99999' is no name server"),
        ("127.0.0.1:0", "'127.0.0.1:0': a port is a number from 1 to 65535"),
        ("127.0.0.1:65536", "a port is a number from 1 to 65535"),
        ("127.0.0.1:-1", "a port is a number from 1 to 65535"),
        ("127.0.0.1:٥", "a port is a number from 1 to 65535"),
        ("127.0.0.1:5_3", "a port is a number from 1 to 65535"),
    ],
)
def test_what_is_no_server_is_named_with_the_remedy(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=r"name server|port") as caught:
        parse_servers(f"192.0.2.1 {text}")
    assert says in str(caught.value)


@given(st.text() | st.text("0123456789.:[]%,/ "))
def test_any_text_is_servers_or_a_value_error(text: str) -> None:
    try:
        servers = parse_servers(text)
    except ValueError:
        return
    assert parse_servers(" ".join(map(str, servers))) == servers
