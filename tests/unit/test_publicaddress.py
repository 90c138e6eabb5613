"""Which addresses are of the public network, in whatever form they are written."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from protocols.publicaddress import is_public


@pytest.mark.parametrize("ip", ["9.9.9.9", "2620:fe::9", "::ffff:9.9.9.9", "64:ff9b::909:909", "2002:909:909::1"])
def test_hosts_of_the_internet_are_public(ip: str) -> None:
    assert is_public(ip_address(ip))


@pytest.mark.parametrize(
    "ip",
    [
        *("127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.0.1", "100.64.0.1", "0.0.0.0", "224.0.0.1"),
        *("255.255.255.255", "240.0.0.1", "192.0.2.1", "::1", "::", "fe80::1", "fd00::1", "ff02::1", "2001:db8::1"),
        *("::ffff:127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::7f00:1", "64:ff9b::a00:1", "2002:a00:1::1"),
    ],
)
def test_this_machine_private_networks_and_groups_are_not(ip: str) -> None:
    assert not is_public(ip_address(ip))
