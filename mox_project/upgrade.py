"""Bringing the database up to date at a start: by itself where this server is all there is, else never."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import sys
from datetime import UTC, datetime
from pathlib import Path

from django.apps import apps
from django.core.management import call_command
from django.core.management.sql import emit_post_migrate_signal, emit_pre_migrate_signal
from django.db import connection
from django.db.migrations.executor import MigrationExecutor

from .problem import EnvironmentProblem


def bring_up_to_date(*, automatic: bool) -> None:
    """Apply migrations that are due, and say on stderr where the copy of the database is that was made before.

    ``automatic``: no other node uses the database. Raises EnvironmentProblem: where it is not, and migrations are due;
    for a database that a later version has changed already; when the copy cannot be made.
    """
    executor = MigrationExecutor(connection)
    known = executor.loader.disk_migrations
    labels = {app for app, _ in known}
    applied = set(executor.loader.applied_migrations)
    unknown = sorted(f"{app}.{name}" for app, name in applied - set(known) if app in labels)
    if unknown:
        raise EnvironmentProblem(
            f"the database was changed by a later version of mox ({', '.join(unknown)}): run that version, "
            "or restore a backup made before"
        )
    due = executor.migration_plan(executor.loader.graph.leaf_nodes())
    if not due:
        return
    if not automatic:
        names = ", ".join(f"{migration.app_label}.{migration.name}" for migration, _ in due)
        raise EnvironmentProblem(f"migrations are pending ({names}): run mox migrate after a backup")
    if not connection.introspection.table_names():
        _make_tables(executor)
        return
    copy = _copy_of_sqlite() if applied and connection.vendor == "sqlite" else None
    call_command("migrate", verbosity=0, interactive=False)
    if copy is not None:
        sys.stderr.write(f"the database was migrated; as it was before, it is in {copy}\n")


def _make_tables(executor: MigrationExecutor) -> None:
    """Make what the models say in an empty database, as if all migrations had made it: all or nothing.

    To go through the migrations takes seconds of processor time, since Django makes all models anew for each of their
    steps. Those that change data have nothing to change. That both ways lead to the same tables is tested.
    """
    emit_pre_migrate_signal(verbosity=0, interactive=False, db=connection.alias)
    with connection.schema_editor() as editor:
        for model in apps.get_models():
            if model._meta.managed and not model._meta.proxy:
                editor.create_model(model)
        executor.recorder.ensure_schema()
        for app, name in executor.loader.disk_migrations:
            executor.recorder.record_applied(app, name)
    emit_post_migrate_signal(verbosity=0, interactive=False, db=connection.alias)


def _copy_of_sqlite() -> Path:
    database = Path(connection.settings_dict["NAME"])
    copy = database.with_name(f"{database.name}.before-{datetime.now(UTC):%Y%m%dT%H%M%SZ}")
    try:
        os.close(os.open(copy, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        connection.ensure_connection()
        with contextlib.closing(sqlite3.connect(copy)) as target:
            target.execute("PRAGMA synchronous=FULL")
            connection.connection.backup(target)
    except (OSError, sqlite3.Error) as exc:
        copy.unlink(missing_ok=True)
        raise EnvironmentProblem(
            f"the database must be migrated, and a copy of it cannot be made at {copy}: {exc}; make room first"
        ) from exc
    return copy
