"""One target under atheris: input that is led by which branches of our code it reaches. `python -m tests.fuzz` runs it.

python -m tests.fuzz.engine MODULE NAME [options and corpus directories of libFuzzer]
"""

from __future__ import annotations

import logging
import sys
from functools import partial
from typing import Final

import atheris

from . import registry

OURS: Final = ["protocols", "imap"]  # packages whose branches are counted
INSTRUMENTED: Final = 5.0  # times that counting may make a check slower


def main() -> None:
    module, name, *options = sys.argv[1:]
    logging.disable(logging.CRITICAL)  # what is logged about bad input would fill the terminal
    if module in registry.WITH_MODELS:
        registry.set_up_django()
    with atheris.instrument_imports(include=OURS):
        target = registry.load(module)[name]
    atheris.Setup([sys.argv[0], *options], partial(target.check_time, allowance=INSTRUMENTED))
    atheris.Fuzz()


if __name__ == "__main__":
    main()
