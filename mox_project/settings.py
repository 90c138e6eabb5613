"""Django's settings, mapped from the environment; nothing here reads a variable itself."""

from __future__ import annotations

import os
import sys
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from .environment import SERVING, Environment, load
from .problem import EnvironmentProblem

MOX: Environment = load()

if sys.argv[1:2] and sys.argv[1] in SERVING:
    # The processes of a server share their metrics in files; prometheus_client looks at this when it is first imported.
    MOX.metrics_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(MOX.metrics_dir)

SECRET_KEY = MOX.secret_key
DEBUG = False
ALLOWED_HOSTS = ["*"]  # the listeners decide which names are served
USE_TZ = True
TIME_ZONE = "UTC"
LANGUAGE_CODE = "en"
USE_I18N = False
FORMAT_MODULE_PATH = ["web.formats"]
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
ROOT_URLCONF = "mox_project.urls"
ASGI_APPLICATION = "mox_project.asgi.application"

INSTALLED_APPS = [
    "django.contrib.contenttypes",
    "django.contrib.auth",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "rest_framework",
    "drf_spectacular",
    "server",
    "accounts",
    "store",
    "junk",
    "mailqueue",
    "web",
    "webmail",
    "webapi",
    "webadmin.apps.WebAdminConfig",
    "webadmin.apps.DjangoAdminConfig",
    "mox_project",
]
MIDDLEWARE = [
    "web.middleware.security_headers",
    "web.middleware.endpoint_cookies",
    "webadmin.middleware.AdminUser",
    "django.contrib.messages.middleware.MessageMiddleware",
]
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
        },
    }
]
STATIC_URL = "static/"  # below each endpoint
MESSAGE_STORAGE = "django.contrib.messages.storage.cookie.CookieStorage"
CSRF_COOKIE_NAME = "webadmincsrf"  # of the forms of Django's admin; our own calls have the session's token
CSRF_FAILURE_VIEW = "web.errors.csrf_failure"
SILENCED_SYSTEM_CHECKS = ["admin.E410"]  # wants Django's sessions: webadmin.middleware has those of all our pages
REST_FRAMEWORK: dict[str, Any] = {
    "DEFAULT_AUTHENTICATION_CLASSES": [],  # web.calls checks sessions
    "DEFAULT_PERMISSION_CLASSES": [],
    "EXCEPTION_HANDLER": "web.errors.exception_handler",
    "UNAUTHENTICATED_USER": None,
}

SPECTACULAR_SETTINGS = {"OAS_VERSION": "3.1.0", "DISABLE_ERRORS_AND_WARNINGS": False}

PASSWORD_HASHERS = [
    "accounts.passwords.MailPasswordHasher",
    "django.contrib.auth.hashers.PBKDF2PasswordHasher",
]


def database(url: str) -> dict[str, Any]:
    """The DATABASES entry for a URL. Raises EnvironmentProblem."""
    parts = urlsplit(url)
    if parts.scheme == "sqlite":
        query = parse_qs(parts.query)
        return {
            "ENGINE": "django.db.backends.sqlite3",
            "NAME": f"/{unquote(parts.path).lstrip('/')}",
            "CONN_MAX_AGE": None,
            "OPTIONS": {
                # Whoever will write takes the lock at BEGIN: a later upgrade fails at once where another was first.
                "transaction_mode": "IMMEDIATE",
                "timeout": float(query.get("timeout", ["20"])[0]),  # seconds to wait for the lock
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


def message_storage(url: str) -> dict[str, Any]:
    """The STORAGES entry for large content. Raises EnvironmentProblem."""
    parts = urlsplit(url)
    if parts.scheme == "file" and not parts.netloc and parts.path.startswith("/"):
        return {"BACKEND": "store.storage.FsyncedFileStorage", "OPTIONS": {"location": unquote(parts.path)}}
    raise EnvironmentProblem(f"MOX_STORAGE_URL={url!r}: use file:///path, a directory that all nodes share")


STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {"BACKEND": "web.static_files.MemoryStaticStorage"},
    "messages": message_storage(MOX.storage_url),
}

LOGGING_CONFIG = None  # server.logs sets it up, in each process

CELERY_BROKER_URL = MOX.broker_url
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
CELERY_BROKER_TRANSPORT_OPTIONS = {
    "socket_keepalive": True,
    "visibility_timeout": 7200,  # seconds, longer than any task: a task that runs is not handed out again
}
CELERY_TASK_IGNORE_RESULT = True  # what a task did stands in the database
CELERY_TASK_DEFAULT_QUEUE = "maintenance"
CELERY_TASK_ROUTES = {"queue.dispatch": {"queue": "delivery"}, "queue.deliver": {"queue": "delivery"}}
CELERY_WORKER_HIJACK_ROOT_LOGGER = False
CELERY_WORKER_REDIRECT_STDOUTS = False
CELERY_WORKER_PREFETCH_MULTIPLIER = 1
CELERY_ENABLE_UTC = True
CELERY_BEAT_SCHEDULE = {
    # An expired tick is dropped: after a pause the next one does the work of all.
    "store-text": {"task": "store.text", "schedule": 5.0, "options": {"expires": 5}},
    "store-erase": {"task": "store.erase", "schedule": 300.0, "options": {"expires": 300}},
    "store-collect-blobs": {"task": "store.collect_blobs", "schedule": 3600.0, "options": {"expires": 3600}},
    "store-import": {"task": "store.import", "schedule": 15.0, "options": {"expires": 15}},
    "store-tidy": {"task": "store.tidy", "schedule": 86400.0, "options": {"expires": 3600}},
    "junk-train": {"task": "junk.train", "schedule": 3.0, "options": {"expires": 3}},
    "junk-tidy": {"task": "junk.tidy", "schedule": 3600.0, "options": {"expires": 3600}},
    "queue-dispatch": {"task": "queue.dispatch", "schedule": 15.0, "options": {"expires": 15}},
    "queue-measure": {"task": "queue.measure", "schedule": 15.0, "options": {"expires": 15}},
    "queue-cleanup": {"task": "queue.cleanup", "schedule": 3600.0, "options": {"expires": 3600}},
    "queue-mtasts-refresh": {"task": "queue.mtasts_refresh", "schedule": 86400.0, "options": {"expires": 3600}},
    "queue-mtasts-refresh-due": {"task": "queue.mtasts_refresh_due", "schedule": 60.0, "options": {"expires": 60}},
    "queue-dnsbl-monitor": {"task": "queue.dnsbl_monitor", "schedule": 300.0, "options": {"expires": 300}},
    "accounts-remove": {"task": "accounts.remove", "schedule": 10.0, "options": {"expires": 10}},
    "accounts-tidy": {"task": "accounts.tidy", "schedule": 86400.0, "options": {"expires": 3600}},
    "server-tidy": {"task": "server.tidy", "schedule": 86400.0, "options": {"expires": 3600}},
}

MOX_CACHE_URL = MOX.cache_url
MOX_RECEIVED_ID_KEY = MOX.received_id_key
MOX_BLOB_INLINE_MAX = MOX.blob_inline_max
MOX_IMPORT_MAX = MOX.import_max
MOX_PEDANTIC = MOX.pedantic
MOX_FAULT = MOX.fault
