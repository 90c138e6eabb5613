"""An installation for trying out: made in a moment, needs no DNS, no root and no certificates.

The directory is claimed before anything is written to it, so that nothing of somebody else's is touched.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from ipaddress import ip_address
from pathlib import Path
from typing import Final

from .problem import EnvironmentProblem

MARKER: Final = "localserve"
LOCALPART: Final = "mox"
PASSWORD: Final = "moxmoxmox"  # noqa: S105 # printed at start: the server listens on loopback only
ADMIN_PASSWORD: Final = "moxadmin"  # noqa: S105 # as above
DOMAIN: Final = "localhost"
DEFAULT_IPS: Final = ("127.0.0.1", "::1")


def default_directory(variables: Mapping[str, str]) -> Path:
    """Where localserve keeps its data unless told otherwise."""
    base = variables.get("XDG_CONFIG_HOME") or str(Path(variables.get("HOME") or Path.home()) / ".config")
    return Path(base) / "mox-localserve"


def claim(directory: Path) -> None:
    """Make the directory ours, or see that it is. Raises EnvironmentProblem for one that is somebody else's."""
    marker = directory / MARKER
    if marker.exists():
        return
    try:
        directory.mkdir(mode=0o750, parents=True, exist_ok=True)
        if any(directory.iterdir()):
            raise EnvironmentProblem(
                f"{directory} is not a localserve directory; choose another with --dir, it must not exist yet"
            )
        marker.write_text("A mail server for trying out, made by mox localserve. Remove the directory to reset it.\n")
    except OSError as exc:
        raise EnvironmentProblem(f"directory {directory} cannot be used: {exc.strerror}") from exc


def set_up(directory: Path, ip: str | None) -> bool:
    """Bring the database up to date, and make settings, account and certificate where there are none yet.

    Gives whether the directory is new. Raises EnvironmentProblem if ``ip`` is not what an older directory uses.
    """
    from accounts import dkim  # models can be imported only once Django is set up
    from accounts.models import Domain
    from server import db
    from server.models import Listener, ServerSettings

    from . import upgrade

    upgrade.bring_up_to_date(automatic=True)
    is_new = not ServerSettings.objects.exists()
    ips = [ip] if ip else list(DEFAULT_IPS)
    if is_new:
        _make(directory, ips)
    elif ip and Listener.objects.exclude(ips=ips).exists():
        raise EnvironmentProblem("--ip applies only to a new directory")
    _add_web()
    domain = Domain.objects.filter(name=DOMAIN, dkim_selectors=None).first()
    if domain is not None:
        with db.write():
            dkim.add_selectors(domain, [dkim.localserve_key()])
    return is_new


def _make(directory: Path, ips: list[str]) -> None:
    from accounts.accounts import create_account
    from accounts.domains import create_domain
    from accounts.passwords import set_password
    from server import db, tls
    from server.models import EndpointKind, Listener, ListenerEndpoint, LogLevel, ServerSettings, TLSMode
    from server.selfsigned import make_self_signed

    certificate, key = tls.self_signed_pair()
    make_self_signed(certificate, key, [DOMAIN], [ip_address(ip) for ip in dict.fromkeys((*DEFAULT_IPS, *ips))])
    with db.write():
        ServerSettings(
            hostname=DOMAIN,
            localserve=True,
            pedantic=True,
            postmaster_account=LOCALPART,
            host_tlsrpt_account=LOCALPART,
            log_level=LogLevel.TRACEAUTH,
        ).save()
        listener = Listener.objects.create(
            name="local",
            ips=ips,
            tls_mode=TLSMode.MANUAL,
            smtp_enabled=True,
            smtp_port=1025,
            submission_enabled=True,
            submission_port=1587,
            submission_no_require_starttls=True,
            submissions_enabled=True,
            submissions_port=1465,
            imap_enabled=True,
            imap_port=1143,
            imap_no_require_starttls=True,
            imaps_enabled=True,
            imaps_port=1993,
        )
        ListenerEndpoint.objects.create(listener=listener, kind=EndpointKind.METRICS, port=1081)
        account = create_account(LOCALPART, LOCALPART, create_domain(DOMAIN))
        set_password(account, PASSWORD)
    _fsync_directory(directory)


def _add_web() -> None:
    """Web pages and an admin user, for a directory that has none."""
    from django.contrib.auth.models import User

    from accounts.admins import set_admin_password
    from server import db
    from server.models import EndpointKind, Listener, ListenerEndpoint

    with db.write():
        listener = Listener.objects.filter(name="local").exclude(endpoints__kind=EndpointKind.WEBMAIL).first()
        if listener is not None:
            ListenerEndpoint.objects.bulk_create(
                ListenerEndpoint(listener=listener, kind=kind, tls=tls, port=port, path=f"/{kind.value}/")
                for kind in (EndpointKind.ACCOUNT, EndpointKind.ADMIN, EndpointKind.WEBMAIL, EndpointKind.WEBAPI)
                for tls, port in ((False, 1080), (True, 1443))
            )
        if not User.objects.filter(is_staff=True).exists():
            set_admin_password("", ADMIN_PASSWORD)


def _fsync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def welcome(directory: Path, ips: list[str], *, is_new: bool) -> str:
    """What is printed at start: addresses, credentials, and what else a newcomer wants to know."""
    ip = ips[0]
    host = f"[{ip}]" if ":" in ip else ip
    return f"""\
mox localserve, for trying out: mail for any address is delivered to {LOCALPART}@{DOMAIN}

  SMTP                 {host}:1025
  submission           {host}:1587 (no TLS needed), {host}:1465 (TLS)
  IMAP                 {host}:1143 (no TLS needed), {host}:1993 (TLS)
  webmail              http://{host}:1080/webmail/, https://{host}:1443/webmail/
  webapi               http://{host}:1080/webapi/v0/, https://{host}:1443/webapi/v0/
  admin                http://{host}:1080/admin/, https://{host}:1443/admin/; user admin, password {ADMIN_PASSWORD}
  health and metrics   http://{host}:1081/healthz /readyz /metrics
  user and password    {LOCALPART}@{DOMAIN} {PASSWORD}
  certificate          {directory / "localhost.crt"}
  directory            {directory} ({"new" if is_new else "existing"}; remove it to start afresh)

  Send a message:      swaks --to {LOCALPART}@{DOMAIN} --server {host}:1025
  Recipients whose localpart ends in one of these fail as told: temperror (451), permerror (550),
  a number from 400 to 599 (that code), timeout (no answer for an hour). With "rcptto" in front at RCPT TO,
  senders with "mailfrom" in front at MAIL FROM, with "queue" when a submitted message is delivered, else after DATA.
"""
