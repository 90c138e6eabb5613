"""The environment of a process: the only reader of ``MOX_*`` variables; knows nothing of Django.

    environment = load()            # --dir from the command line, DIR/mox.env, then the process environment, which wins
    environment.data_dir

Settings that an operator changes on a running server are in the database, not here.
"""

from __future__ import annotations

import base64
import difflib
import os
import secrets
import socket
import stat
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

from protocols.durations import parse_duration

from . import localserve
from .problem import EnvironmentProblem

if TYPE_CHECKING:
    from protocols.dns.servers import NameServer

LOCALSERVE: Final = "localserve"  # the command that has a directory of its own
SERVING: Final = (LOCALSERVE, "serve", "mailserver")  # the commands whose processes share their metrics in files
DEFAULT_USER: Final = "mox"
LOG_LEVELS: Final = ("error", "warn", "info", "debug", "trace", "traceauth", "tracedata")
WEB_WORKERS_MAX: Final = 4  # by default: one process serves thousands of requests a second, and takes memory
DEFAULT_DATA_DIR: Final = "data"
ENVIRONMENT_FILE: Final = "mox.env"
SECRETS_DIR: Final = "keys"

# What MOX_SMTP_CLIENT_TIMEOUTS may name: fields of protocols.smtpclient.Timeouts, not imported for tests' sake.
_CLIENT_TIMEOUTS: Final = ("connect", "setup", "reply", "write", "tls_handshake", "end_of_data", "delivery", "quit")

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Environment:
    """What the environment says, each value in its type. Sizes in bytes, secrets as bytes."""

    data_dir: Path
    database_url: str
    broker_url: str
    cache_url: str
    channel_url: str
    storage_url: str
    secret_key: str
    encryption_keys: tuple[bytes, ...]
    received_id_key: bytes
    node: str
    log_level: str
    log_format: str
    log_time: bool
    web_workers: int
    mail_workers: int
    trusted_proxies: tuple[IPv4Network | IPv6Network, ...]
    worker_concurrency: int
    imap_threads: int
    blob_inline_max: int
    import_max: int
    smtp_idle_timeout: timedelta
    smtp_data_timeout: timedelta
    smtp_bad_client_delay: timedelta
    smtp_auth_fail_delay: timedelta
    smtp_unknown_rcpt_delay: timedelta
    queue_max_attempts: int
    queue_backoff_base: timedelta
    queue_delayed_dsn_attempt: int
    queue_max_concurrent: int
    queue_per_destination: int
    queue_unknown_outcome: str
    webhook_concurrency: int
    webapi_max_body: int
    smtp_client_port: int
    smtp_client_timeouts: dict[str, float]  # by name, those that differ
    mtasts_port: int
    mtasts_private: bool
    dns_resolvers: tuple[NameServer, ...]  # none: those of resolv.conf
    dns_trust_ad: bool | None
    pedantic: bool | None
    sockets: str
    in_container: bool
    fault: str

    @property
    def run_dir(self) -> Path:
        """Sockets, pids and metric files of the running processes."""
        return self.data_dir / "run"

    @property
    def metrics_dir(self) -> Path:
        """Where the processes keep their metrics, to be summed by the one that is asked."""
        return self.run_dir / "metrics"

    @property
    def temporary_dir(self) -> Path:
        """Content on its way in or out that is too large for memory."""
        return self.data_dir / "tmp"

    @property
    def redis_socket(self) -> Path:
        return self.run_dir / "redis.sock"

    @property
    def embedded_redis(self) -> bool:
        """Whether this installation brings its own Redis: a URL names it, as all do unless told otherwise."""
        return any(self._is_own_redis(url) for url in (self.broker_url, self.cache_url, self.channel_url))

    @property
    def is_alone(self) -> bool:
        """Whether no other node can share this installation: database and Redis are its own."""
        urls = (self.broker_url, self.cache_url, self.channel_url)
        return self.database_url.startswith("sqlite:") and all(self._is_own_redis(url) for url in urls)

    def _is_own_redis(self, url: str) -> bool:
        return url.partition("://")[2].partition("?")[0] == str(self.redis_socket)


_SECRETS: Final = ("MOX_SECRET_KEY", "MOX_ENCRYPTION_KEYS", "MOX_RECEIVED_ID_KEY")

# Variables that are looked at before or beside this; known, so that nobody is warned of them.
_KNOWN_ELSEWHERE: Final = frozenset({"MOX_DATA_DIR", "MOX_USER", "MOX_NO_FIX_PERMISSIONS"})


@dataclass(frozen=True, slots=True)
class LaunchEnvironment:
    """What the launcher needs to know while it is root. ``inherited``: somebody has opened sockets before it."""

    data_dir: Path
    user: str
    fix_permissions: bool
    inherited: bool


def load(variables: Mapping[str, str] | None = None, argv: Sequence[str] | None = None) -> Environment:
    """Read the environment once. Raises EnvironmentProblem."""
    given = dict(os.environ if variables is None else variables)
    arguments = sys.argv if argv is None else argv
    is_localserve = arguments[1:2] == [LOCALSERVE]
    default_dir = localserve.default_directory(given) if is_localserve else DEFAULT_DATA_DIR
    data_dir = Path(_directory_argument(arguments) or given.get("MOX_DATA_DIR") or default_dir).absolute()
    if is_localserve:
        localserve.claim(data_dir)
    values = {**_read_file(data_dir / ENVIRONMENT_FILE), **{k: v for k, v in given.items() if k.startswith("MOX_")}}
    reader = _Reader(values, data_dir)
    environment = reader.environment()
    reader.warn_unknown()
    return environment


def load_for_launch(variables: Mapping[str, str] | None = None, argv: Sequence[str] | None = None) -> LaunchEnvironment:
    """What the launcher reads, as root: no secret, and from DIR/mox.env only where nobody but root writes it.

    Raises EnvironmentProblem.
    """
    given = dict(os.environ if variables is None else variables)
    arguments = sys.argv if argv is None else argv
    data_dir = Path(_directory_argument(arguments) or given.get("MOX_DATA_DIR") or DEFAULT_DATA_DIR).absolute()
    reader = _Reader({**_read_file_of_root(data_dir / ENVIRONMENT_FILE), **given}, data_dir)
    return LaunchEnvironment(
        data_dir=data_dir,
        user=reader.text("MOX_USER", DEFAULT_USER),
        fix_permissions=not reader.flag("MOX_NO_FIX_PERMISSIONS", default=False),
        inherited=bool(reader.text("MOX_SOCKETS", "")),
    )


def placeholder_secrets(variables: Mapping[str, str]) -> dict[str, str]:
    """Values for the secrets that are not given, for a process that uses none: so that none are made and kept."""
    value = base64.urlsafe_b64encode(bytes(24)).decode()
    return {name: value for name in _SECRETS if not variables.get(name) and not variables.get(f"{name}_FILE")}


def log_level_now(data_dir: Path) -> str:
    """The log level as the environment and DIR/mox.env have it now; "": neither. Raises EnvironmentProblem."""
    return _log_level(_Reader({**_read_file(data_dir / ENVIRONMENT_FILE), **os.environ}, data_dir))


class _Reader:
    def __init__(self, values: Mapping[str, str], data_dir: Path) -> None:
        self._values = values
        self._dir = data_dir
        self._asked: set[str] = set(_KNOWN_ELSEWHERE)

    def environment(self) -> Environment:
        from protocols.dns.servers import parse_servers  # brings asyncio, which the launcher does without

        redis = f"unix://{self._dir / 'run' / 'redis.sock'}"
        cpus = os.cpu_count() or 1
        cache_url = self.text("MOX_CACHE_URL", f"{redis}?db=1")
        return Environment(
            data_dir=self._dir,
            database_url=self.text("MOX_DATABASE_URL", f"sqlite:///{self._dir / 'mox.sqlite3'}"),
            broker_url=self.text("MOX_BROKER_URL", redis.replace("unix://", "redis+socket://") + "?virtual_host=0"),
            cache_url=cache_url,
            channel_url=self.text("MOX_CHANNEL_URL", f"{redis}?db=2"),
            storage_url=self.text("MOX_STORAGE_URL", f"file://{self._dir / 'msg'}"),
            secret_key=self.secret("MOX_SECRET_KEY", 48).decode("ascii", "replace"),
            encryption_keys=tuple(self.secret("MOX_ENCRYPTION_KEYS", 32).split(b",")),
            received_id_key=self.received_id_key(),
            node=self.text("MOX_NODE", socket.gethostname()),
            log_level=_log_level(self),
            log_format=self.choice("MOX_LOG_FORMAT", "logfmt", ("logfmt", "json", "console")),
            log_time=self.flag("MOX_LOG_TIME", default=False),
            web_workers=self.number("MOX_WEB_WORKERS", max(1, min(WEB_WORKERS_MAX, cpus // 2)), minimum=1),
            mail_workers=self.number("MOX_MAIL_WORKERS", 1, minimum=1),
            trusted_proxies=self._parsed("MOX_TRUSTED_PROXIES", "", _networks),
            worker_concurrency=self.number("MOX_WORKER_CONCURRENCY", min(4, cpus), minimum=1),
            imap_threads=self.number("MOX_IMAP_THREADS", 8, minimum=1),
            blob_inline_max=self.number("MOX_BLOB_INLINE_MAX", 65536),
            import_max=self.number("MOX_IMPORT_MAX", 20 << 30),
            smtp_idle_timeout=self.duration("MOX_SMTP_IDLE_TIMEOUT", "30s"),
            smtp_data_timeout=self.duration("MOX_SMTP_DATA_TIMEOUT", "30m"),
            smtp_bad_client_delay=self.duration("MOX_SMTP_BAD_CLIENT_DELAY", "1s"),
            smtp_auth_fail_delay=self.duration("MOX_SMTP_AUTH_FAIL_DELAY", "1s"),
            smtp_unknown_rcpt_delay=self.duration("MOX_SMTP_UNKNOWN_RCPT_DELAY", "5s"),
            queue_max_attempts=self.number("MOX_QUEUE_MAX_ATTEMPTS", 8, minimum=1, maximum=16),
            queue_backoff_base=self.duration("MOX_QUEUE_BACKOFF_BASE", "450s"),
            queue_delayed_dsn_attempt=self.number("MOX_QUEUE_DELAYED_DSN_ATTEMPT", 5),
            queue_max_concurrent=self.number("MOX_QUEUE_MAX_CONCURRENT", 10, minimum=1),
            queue_per_destination=self.number("MOX_QUEUE_PER_DESTINATION", 1, minimum=1),
            queue_unknown_outcome=self.choice("MOX_QUEUE_UNKNOWN_OUTCOME", "retry", ("retry", "hold")),
            webhook_concurrency=self.number("MOX_WEBHOOK_CONCURRENCY", 10, minimum=1),
            webapi_max_body=self.number("MOX_WEBAPI_MAX_BODY", (2 * 100 + 1) << 20, minimum=1 << 20),
            smtp_client_port=self.number("MOX_SMTP_CLIENT_PORT", 25, minimum=1, maximum=65535),
            smtp_client_timeouts=self._parsed("MOX_SMTP_CLIENT_TIMEOUTS", "", _timeouts),
            mtasts_port=self.number("MOX_MTASTS_PORT", 443, minimum=1, maximum=65535),
            mtasts_private=self.flag("MOX_MTASTS_PRIVATE", default=False),
            dns_resolvers=self._parsed("MOX_DNS_RESOLVERS", "", parse_servers),
            dns_trust_ad=self.optional_flag("MOX_DNS_TRUST_AD"),
            pedantic=self.optional_flag("MOX_PEDANTIC"),
            sockets=self.text("MOX_SOCKETS", ""),
            in_container=self.flag("MOX_CONTAINER", default=False),
            fault=self.text("MOX_FAULT", ""),
        )

    def text(self, name: str, default: str) -> str:
        """The variable, or the content of the file that NAME_FILE names."""
        self._asked.update((name, f"{name}_FILE"))
        value = self._values.get(name)
        file = self._values.get(f"{name}_FILE")
        if file and not value:
            try:
                return Path(file).read_text().strip()
            except OSError as exc:
                raise EnvironmentProblem(f"{name}_FILE={file!r} cannot be read: {exc.strerror}") from exc
        return value if value else default

    def flag(self, name: str, *, default: bool) -> bool:
        value = self.text(name, "1" if default else "0").lower()
        if value in ("1", "yes", "true", "on"):
            return True
        if value in ("0", "no", "false", "off"):
            return False
        raise EnvironmentProblem(f"{name}={value!r} is neither yes nor no: use 1 or 0")

    def optional_flag(self, name: str) -> bool | None:
        """Yes, no, or None when nothing is said."""
        return self.flag(name, default=False) if self.text(name, "") else None

    def choice(self, name: str, default: str, allowed: Sequence[str]) -> str:
        value = self.text(name, default)
        if value not in allowed:
            raise EnvironmentProblem(f"{name}={value!r} is unknown: use one of {', '.join(allowed)}")
        return value

    def number(self, name: str, default: int, *, minimum: int = 0, maximum: int | None = None) -> int:
        return self._parsed(name, str(default), lambda text: _whole_number(text, minimum, maximum))

    def duration(self, name: str, default: str) -> timedelta:
        return self._parsed(name, default, _positive_duration)

    def secret(self, name: str, size: int) -> bytes:
        """A secret that is made at the first use and kept in the data directory, readable by its owner alone."""
        given = self.text(name, "")
        if given:
            return given.encode()
        return self._kept(name, lambda: base64.urlsafe_b64encode(secrets.token_bytes(size)))

    def received_id_key(self) -> bytes:
        """16 bytes of AES key and 8 random bytes."""
        text = self.secret("MOX_RECEIVED_ID_KEY", 24)
        try:
            key = base64.urlsafe_b64decode(text)
        except ValueError as exc:
            raise EnvironmentProblem(f"MOX_RECEIVED_ID_KEY is not base64url: {exc}") from exc
        if len(key) != 24:
            raise EnvironmentProblem(f"MOX_RECEIVED_ID_KEY has {len(key)} bytes: 24 are needed, in base64url")
        return key

    def warn_unknown(self) -> None:
        for name in sorted(self._values.keys() - self._asked):
            near = difflib.get_close_matches(name, sorted(self._asked), 1)
            hint = f", did you mean {near[0]}?" if near else ""
            sys.stderr.write(f"warning: unknown environment variable {name}{hint}\n")

    def _kept(self, name: str, make: Callable[[], bytes]) -> bytes:
        path = self._dir / SECRETS_DIR / name.removeprefix("MOX_").lower().replace("_", "-")
        try:
            return path.read_bytes().strip()
        except FileNotFoundError:
            pass
        except OSError as exc:
            raise EnvironmentProblem(f"{name}: {path} cannot be read: {exc.strerror}") from exc
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            temporary = path.with_name(f"{path.name}.{os.getpid()}")
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(make() + b"\n")
                file.flush()
                os.fsync(file.fileno())
            try:
                os.link(temporary, path)  # another process that was first wins
            except FileExistsError:
                pass
            finally:
                temporary.unlink()
        except OSError as exc:
            raise EnvironmentProblem(f"data directory {self._dir} cannot be written: {exc.strerror}") from exc
        return path.read_bytes().strip()

    def _parsed(self, name: str, default: str, parse: Callable[[str], T]) -> T:
        value = self.text(name, default)
        try:
            return parse(value)
        except ValueError as exc:
            raise EnvironmentProblem(f"{name}={value!r}: {exc}") from exc


def _timeouts(text: str) -> dict[str, float]:
    """``reply=3,end_of_data=5``: seconds. Raises ValueError."""
    timeouts = {}
    for item in filter(None, text.split(",")):
        name, _, seconds = item.partition("=")
        if name.strip() not in _CLIENT_TIMEOUTS:
            raise ValueError(f"{name!r} is none of {', '.join(_CLIENT_TIMEOUTS)}")
        timeouts[name.strip()] = float(seconds)
    return timeouts


def _positive_duration(text: str) -> timedelta:
    duration = parse_duration(text)
    if duration < timedelta(0):
        raise ValueError("a duration cannot be negative here")
    return duration


def _log_level(reader: _Reader) -> str:
    return reader.choice("MOX_LOG_LEVEL", "", LOG_LEVELS) if reader.text("MOX_LOG_LEVEL", "") else ""


def _networks(text: str) -> tuple[IPv4Network | IPv6Network, ...]:
    """Addresses and networks, separated by commas or spaces."""
    return tuple(ip_network(item) for item in text.replace(",", " ").split())


def _whole_number(text: str, minimum: int, maximum: int | None) -> int:
    if not text.isascii() or not text.isdigit():
        raise ValueError("a whole number is needed")
    number = int(text)
    if number < minimum:
        raise ValueError(f"at least {minimum} is needed")
    if maximum is not None and number > maximum:
        raise ValueError(f"at most {maximum} is possible")
    return number


def _directory_argument(arguments: Sequence[str]) -> str:
    for number, argument in enumerate(arguments):
        if argument == "--dir" and number + 1 < len(arguments):
            return arguments[number + 1]
        if argument.startswith("--dir="):
            return argument.removeprefix("--dir=")
    return ""


def _read_file(path: Path) -> dict[str, str]:
    try:
        return _parse_file(path, path.read_text())
    except FileNotFoundError:
        return {}
    except OSError as exc:
        raise EnvironmentProblem(f"{path} cannot be read: {exc.strerror}") from exc


def _read_file_of_root(path: Path) -> dict[str, str]:
    """What stands in a file that nobody but root could write: who has taken over the server's user must not choose
    whom root becomes next. Any other file counts as empty."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return {}
    with os.fdopen(descriptor) as file:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode) or found.st_uid != 0 or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            return {}
        return _parse_file(path, file.read())


def _parse_file(path: Path, text: str) -> dict[str, str]:
    values = {}
    for number, line in enumerate(text.splitlines(), 1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        name, equals, value = line.partition("=")
        if not equals or not name.strip().startswith("MOX_"):
            raise EnvironmentProblem(f"{path} line {number}: expected MOX_NAME=value, found {line[:40]!r}")
        values[name.strip()] = value.strip().strip('"')
    return values
