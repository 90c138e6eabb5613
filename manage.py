#!/usr/bin/env python
"""The command line of mox: ``manage.py help`` lists the commands."""

from __future__ import annotations

import os
import sys


def main() -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "mox_project.settings")
    from django.core.management import execute_from_command_line  # after the settings module is named

    from mox_project.problem import EnvironmentProblem

    try:
        execute_from_command_line(sys.argv)
    except EnvironmentProblem as problem:
        sys.exit(f"error: {problem}")


if __name__ == "__main__":
    main()
