"""What is done with a command line before Django's commands get it: ``mox a b`` and ``manage.py a b`` are the same.

``--dir`` and ``--loglevel`` may stand anywhere, ``help`` knows the words within commands, and ``serve`` as root goes to
the launcher, which imports as little as it can.
"""

from __future__ import annotations

import argparse
import difflib
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from . import launcher
from .environment import LOG_LEVELS, SERVING, placeholder_secrets
from .problem import EnvironmentProblem

USAGE: Final = 2  # exit status
COMMAND_LEVEL: Final = "warn"  # what commands log unless told otherwise
SHOWN_OF_DJANGO: Final = ("migrate",)  # its other commands are for developers


def main() -> None:
    """Run the command line of this process, and exit."""
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "mox_project.settings")
    try:
        directory = _take("--dir")
        if directory:
            os.environ["MOX_DATA_DIR"] = directory
        word = sys.argv[1] if len(sys.argv) > 1 else "help"
        asks_help = "-h" in sys.argv[2:] or "--help" in sys.argv[2:]
        if word == "serve" and os.geteuid() == 0 and not asks_help:
            sys.exit(launcher.launch(sys.argv))
        if word in ("version", "--version"):
            _version()
        elif word in ("help", "--help", "-h"):
            _help(sys.argv[2:])
        else:
            _run(word)
    except EnvironmentProblem as problem:
        sys.exit(f"error: {problem}")


def _take(option: str) -> str:
    """The value of an option, which is removed from the command line; "" where it is not given."""
    value = ""
    words = sys.argv
    for number, word in enumerate(words[1:], 1):
        if word == "--":
            break
        if word == option and number + 1 < len(words):
            value = words[number + 1]
            del words[number : number + 2]
            break
        if word.startswith(f"{option}="):
            value = word.partition("=")[2]
            del words[number]
            break
    return value


def _run(word: str) -> None:
    import django
    from django.core.management import execute_from_command_line, get_commands

    django.setup()
    if word not in get_commands():
        near = difflib.get_close_matches(word, _commands(), 1)
        sys.stderr.write(f"unknown command {word!r}{f', did you mean {near[0]}' if near else ''}: see mox help\n")
        sys.exit(USAGE)
    if word not in SERVING:
        from server import logs

        level = _take("--loglevel")
        if level and level not in LOG_LEVELS:
            sys.stderr.write(f"unknown log level {level!r}, use {', '.join(LOG_LEVELS)}\n")
            sys.exit(USAGE)
        logs.configure(logs.Levels(level or COMMAND_LEVEL), "console", own_time=False)
    execute_from_command_line(sys.argv)


def _version() -> None:
    import platform

    import django

    from server.version import VERSION

    sys.stdout.write(f"mox {VERSION}, Python {platform.python_version()}, Django {django.get_version()}\n")


@dataclass(frozen=True, slots=True)
class _Described:
    """A command, or a word within one, and what explains it."""

    name: str
    summary: str
    parser: argparse.ArgumentParser


def _help(words: list[str]) -> None:
    """One line for each command that the words are in; all about it if there is one alone."""
    import django

    os.environ.update(placeholder_secrets(os.environ))  # who only asks for help gets no data directory
    django.setup()
    found = [described for command in _commands() for described in _described(command)]
    wanted = " ".join(words)
    matching = [one for one in found if one.name == wanted] or [one for one in found if wanted in one.name]
    if not matching:
        sys.stderr.write(f"no command is called {wanted!r}: mox help lists all\n")
        sys.exit(USAGE)
    if len(matching) == 1:
        matching[0].parser.print_help()
        return
    width = max(len(one.name) for one in matching)
    for one in matching:
        sys.stdout.write(f"{one.name:{width}}  {one.summary.partition('. ')[0].rstrip('.')}\n")


def _commands() -> list[str]:
    """Our commands, and those of Django that an operator needs."""
    from django.apps import apps
    from django.core.management import get_commands

    own = {config.name for config in apps.get_app_configs() if not config.name.startswith("django.")}
    return sorted(name for name, app in get_commands().items() if app in own or name in SHOWN_OF_DJANGO)


def _described(command: str) -> list[_Described]:
    from django.core.management import get_commands, load_command_class

    parser = load_command_class(get_commands()[command], command).create_parser("mox", command)
    return list(_leaves(_Described(command, parser.description or "", parser)))


def _leaves(one: _Described) -> Iterator[_Described]:
    groups = [action for action in one.parser._actions if isinstance(action, argparse._SubParsersAction)]
    if not groups:
        yield one
    for group in groups:
        helps = {action.dest: action.help for action in group._choices_actions}
        for word, inner in group.choices.items():
            yield from _leaves(_Described(f"{one.name} {word}", helps.get(word) or inner.description or "", inner))
