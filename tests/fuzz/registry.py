"""All targets by their names, and the modules that hold them."""

from __future__ import annotations

import importlib
from typing import Final

from .targets import Target

MODULES: Final = (
    "messages",
    "names",
    "smtp",
    "dkim",
    "verification",
    "sasl",
    "dsn",
    "policies",
    "network",
    "files",
    "imap",
    "imapcontent",
)
WITH_MODELS: Final = ("imap", "imapcontent")  # modules that Django must be set up for (`set_up_django`)


def load(module: str) -> dict[str, Target]:
    """The targets of one module."""
    found: list[Target] = importlib.import_module(f"tests.fuzz.{module}").TARGETS
    return {target.name: target for target in found}


def load_all() -> dict[str, Target]:
    """The targets of all modules, once Django is set up."""
    return {name: target for module in MODULES for name, target in load(module).items()}


def set_up_django() -> None:
    """Outside of pytest: an installation that is thrown away."""
    from tests import installation

    installation.prepare()
    import django

    django.setup()
