"""Passwords as commands take them: from standard input, never from the command line, where others can see them."""

from __future__ import annotations

import getpass
import sys

from .passwords import PasswordRejected


def read_new() -> str:
    """The first line of standard input; on a terminal asked for twice, without echo. Raises PasswordRejected."""
    if not sys.stdin.isatty():
        line = sys.stdin.readline().removesuffix("\n").removesuffix("\r")
        if not line:
            raise PasswordRejected("no password on standard input: its first line is the password")
        return line
    password = getpass.getpass("new password: ")
    if getpass.getpass("again: ") != password:
        raise PasswordRejected("the two passwords differ, nothing was changed")
    return password
