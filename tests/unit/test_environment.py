"""The environment: precedence, types, secrets that are made once, and errors that name the variable and the remedy."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from mox_project.environment import Environment, load
from mox_project.localserve import MARKER
from mox_project.problem import EnvironmentProblem


def loaded(directory: Path, **variables: str) -> Environment:
    return load({"MOX_DATA_DIR": str(directory), **variables}, ["manage.py", "check"])


def test_the_process_environment_wins_over_the_file(tmp_path: Path) -> None:
    (tmp_path / "mox.env").write_text('# comment\nMOX_MAIL_WORKERS=3\nMOX_NODE="n1"\n\n')
    environment = loaded(tmp_path, MOX_MAIL_WORKERS="2")
    assert (environment.mail_workers, environment.node) == (2, "n1")


def test_dir_on_the_command_line_wins(tmp_path: Path) -> None:
    for words in (["--dir", str(tmp_path / "b")], [f"--dir={tmp_path / 'b'}"]):
        environment = load({"MOX_DATA_DIR": str(tmp_path / "a")}, ["manage.py", "check", *words])
        assert environment.data_dir == tmp_path / "b"


def test_secrets_are_made_once_for_the_owner_alone(tmp_path: Path) -> None:
    first, second = loaded(tmp_path), loaded(tmp_path)
    assert first.secret_key == second.secret_key != loaded(tmp_path / "other").secret_key
    assert len(first.received_id_key) == 24
    for path in (tmp_path / "keys").iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_secret_can_come_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("from a file\n")
    assert loaded(tmp_path, MOX_SECRET_KEY_FILE=str(tmp_path / "secret")).secret_key == "from a file"


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("MOX_MAIL_WORKERS", "many", "MOX_MAIL_WORKERS='many': a whole number is needed"),
        ("MOX_MAIL_WORKERS", "0", "at least 1 is needed"),
        ("MOX_SMTP_IDLE_TIMEOUT", "5 minutes", 'bad duration "5 minutes", use numbers with s, m, h, d, w'),
        ("MOX_LOG_FORMAT", "xml", "use one of logfmt, json, console"),
        ("MOX_PEDANTIC", "maybe", "MOX_PEDANTIC='maybe' is neither yes nor no"),
        ("MOX_RECEIVED_ID_KEY", "c2hvcnQ=", "24 are needed"),
        ("MOX_SECRET_KEY_FILE", "/nowhere/secret", "cannot be read"),
        ("MOX_DNS_RESOLVERS", "127.0.0.1 dns.example", "use an ip address or ip:port"),
        ("MOX_DNS_TRUST_AD", "perhaps", "MOX_DNS_TRUST_AD='perhaps' is neither yes nor no"),
    ],
)
def test_a_bad_value_is_named_with_the_remedy(tmp_path: Path, name: str, value: str, says: str) -> None:
    with pytest.raises(EnvironmentProblem) as caught:
        loaded(tmp_path, **{name: value})
    assert name in str(caught.value)
    assert says in str(caught.value)


def test_name_servers_and_trust_in_them_are_the_systems_unless_given(tmp_path: Path) -> None:
    environment = loaded(tmp_path)
    assert (environment.dns_resolvers, environment.dns_trust_ad) == ((), None)
    environment = loaded(tmp_path, MOX_DNS_RESOLVERS="192.0.2.53, [::1]:5353", MOX_DNS_TRUST_AD="1")
    assert ([str(server) for server in environment.dns_resolvers], environment.dns_trust_ad) == (
        ["192.0.2.53:53", "[::1]:5353"],
        True,
    )
    assert loaded(tmp_path, MOX_DNS_TRUST_AD="0").dns_trust_ad is False


def test_a_line_of_the_file_that_is_none_is_named(tmp_path: Path) -> None:
    (tmp_path / "mox.env").write_text("MOX_NODE=a\nexport FOO\n")
    with pytest.raises(EnvironmentProblem, match=r"mox\.env line 2: expected MOX_NAME=value"):
        loaded(tmp_path)


def test_an_unknown_name_is_warned_of_with_the_nearest_known(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    loaded(tmp_path, MOX_MAIL_WORKER="2")
    assert "unknown environment variable MOX_MAIL_WORKER, did you mean MOX_MAIL_WORKERS?" in capsys.readouterr().err


def test_localserve_has_a_directory_of_its_own_and_claims_it(tmp_path: Path) -> None:
    environment = load({"XDG_CONFIG_HOME": str(tmp_path)}, ["manage.py", "localserve"])
    assert environment.data_dir == tmp_path / "mox-localserve"
    assert (environment.data_dir / MARKER).is_file()
    load({"XDG_CONFIG_HOME": str(tmp_path)}, ["manage.py", "localserve"])  # and takes it again


def test_localserve_touches_no_directory_of_somebody_else(tmp_path: Path) -> None:
    (tmp_path / "thesis").touch()
    with pytest.raises(EnvironmentProblem, match="not a localserve directory; choose another with --dir"):
        load({}, ["manage.py", "localserve", "--dir", str(tmp_path)])
    assert [path.name for path in tmp_path.iterdir()] == ["thesis"]


def test_trusted_proxies_are_addresses_and_networks(tmp_path: Path) -> None:
    environment = loaded(tmp_path, MOX_TRUSTED_PROXIES="10.0.0.0/8, 2001:db8::1 192.0.2.1")
    assert [str(network) for network in environment.trusted_proxies] == [
        "10.0.0.0/8",
        "2001:db8::1/128",
        "192.0.2.1/32",
    ]
    assert loaded(tmp_path).trusted_proxies == ()
    with pytest.raises(EnvironmentProblem, match=r"MOX_TRUSTED_PROXIES='proxy\.example'"):
        loaded(tmp_path, MOX_TRUSTED_PROXIES="proxy.example")
