"""Django's settings, mapped from the environment; nothing here reads a variable itself."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from .environment import Environment, EnvironmentProblem, load

MOX: Environment = load()

SECRET_KEY = MOX.secret_key
DEBUG = False
ALLOWED_HOSTS = ["*"]  # the listeners decide which names are served
USE_TZ = True
TIME_ZONE = "UTC"
LANGUAGE_CODE = "en"
USE_I18N = False
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
ROOT_URLCONF = "mox_project.urls"
ASGI_APPLICATION = "mox_project.asgi.application"

INSTALLED_APPS = [
    "django.contrib.contenttypes",
    "django.contrib.auth",
    "server",
    "accounts",
    "store",
    "mox_project",
]
MIDDLEWARE: list[str] = []

PASSWORD_HASHERS = [
    "accounts.passwords.MailPasswordHasher",
    "django.contrib.auth.hashers.PBKDF2PasswordHasher",
]


def database(url: str) -> dict[str, Any]:
    """The DATABASES entry for a URL. Raises EnvironmentProblem."""
    parts = urlsplit(url)
    if parts.scheme == "sqlite":
        return {
            "ENGINE": "django.db.backends.sqlite3",
            "NAME": unquote(parts.path),
            "CONN_MAX_AGE": None,
            "OPTIONS": {
                # Whoever will write takes the lock at BEGIN: a later upgrade fails at once where another was first.
                "transaction_mode": "IMMEDIATE",
                "timeout": 20,
                # FULL: with NORMAL a power cut loses commits that were answered with 250 already.
                "init_command": (
                    "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA foreign_keys=ON;"
                    " PRAGMA cache_size=-65536; PRAGMA wal_autocheckpoint=1000; PRAGMA temp_store=MEMORY"
                ),
            },
        }
    if parts.scheme in ("postgres", "postgresql"):
        query = parse_qs(parts.query)
        return {
            "ENGINE": "django.db.backends.postgresql",
            "NAME": unquote(parts.path.lstrip("/")),
            "USER": unquote(parts.username or ""),
            "PASSWORD": unquote(parts.password or ""),
            "HOST": query.get("host", [parts.hostname or ""])[0],
            "PORT": str(parts.port or ""),
            "CONN_MAX_AGE": None,
            "OPTIONS": {"options": "-c statement_timeout=300000"},
        }
    raise EnvironmentProblem(f"MOX_DATABASE_URL={url!r}: use postgres://user:password@host/name or sqlite:///path")


DATABASES = {"default": database(MOX.database_url)}

STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "messages": {
        "BACKEND": "store.storage.FsyncedFileStorage",
        "OPTIONS": {"location": str(MOX.data_dir / "msg")},
    },
}

LOGGING_CONFIG = None  # server.logs sets it up, in each process

MOX_CACHE_URL = MOX.cache_url
MOX_RECEIVED_ID_KEY = MOX.received_id_key
MOX_BLOB_INLINE_MAX = MOX.blob_inline_max
MOX_PEDANTIC = MOX.pedantic
MOX_FAULT = MOX.fault
