#!/usr/bin/env python
"""The command line of mox: ``manage.py help`` lists the commands."""

from __future__ import annotations

from mox_project.commandline import main

if __name__ == "__main__":
    main()
