"""Fuzz every parser for a time each, several side by side, and tell what was found: `make fuzz`.

    python -m tests.fuzz [--seconds 60] [--jobs 2] [PART OF A TARGET'S NAME ...]
    python -m tests.fuzz --again FILE          # one input that was found, without instrumentation
    python -m tests.fuzz --list

What a target learned stays in `.fuzz/corpus` and the next run goes on from there; `.fuzz/found` has the inputs that
failed. Such an input becomes a regression test as `tests/fuzz/found/TARGET/WHAT-IT-SHOWS`.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import re
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from . import registry
from .targets import Target

DIRECTORY: Final = Path(".fuzz")
CORPUS: Final = DIRECTORY / "corpus"
SEEDS: Final = DIRECTORY / "seeds"
FOUND: Final = DIRECTORY / "found"
LOGS: Final = DIRECTORY / "logs"

HANG_SECONDS: Final = 60  # by the clock, for one input: other processes may have the machine
MEMORY_MIB: Final = 1024  # of a process
WORD_MAX: Final = 64  # bytes of a word in a dictionary of libFuzzer


@dataclass(frozen=True, slots=True)
class Outcome:
    """``found``: the input that failed; ``error``: the last line that the process said about it, "" when none did."""

    target: Target
    runs: int
    edges: int
    inputs: int
    error: str
    found: Path | None

    def __str__(self) -> str:
        text = f"{self.target.name}: {self.runs} runs, {self.edges} edges, {self.inputs} inputs kept"
        if not self.error:
            return text
        text += f"\n    FAILED: {self.error}\n    log:    {LOGS / self.target.slug}.log"
        if self.found is None:
            return text
        return f"{text}\n    input:  {self.found}\n    again:  {sys.executable} -m tests.fuzz --again {self.found}"


def run(module: str, target: Target, seconds: int) -> Outcome:
    """Fuzz one target until the time is over or an input fails."""
    corpus, seeds, log = CORPUS / target.slug, SEEDS / target.slug, LOGS / f"{target.slug}.log"
    for directory in (corpus, seeds, FOUND, LOGS):
        directory.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(target.seeds):
        (seeds / str(number)).write_bytes(seed)
    words = SEEDS / f"{target.slug}.dict"
    words.write_text("".join(f'"{_escaped(token)}"\n' for token in target.tokens if 0 < len(token) <= WORD_MAX))
    before = set(FOUND.iterdir())
    with tempfile.TemporaryDirectory(prefix="mox-fuzz-") as temporary, log.open("wb") as output:
        options = [
            f"-max_total_time={seconds}",
            f"-timeout={HANG_SECONDS}",
            f"-rss_limit_mb={MEMORY_MIB}",
            f"-max_len={target.longest}",
            f"-artifact_prefix={FOUND}/{target.slug}--",
            "-print_final_stats=1",
        ]
        if target.tokens:
            options.append(f"-dict={words}")
        code = subprocess.call(
            [sys.executable, "-m", "tests.fuzz.engine", module, target.name, *options, str(corpus), str(seeds)],
            stdout=output,
            stderr=subprocess.STDOUT,
            env=os.environ | {"TMPDIR": temporary},
        )
    said = log.read_text(errors="replace")
    found = next((path for path in FOUND.glob(f"{target.slug}--*") if path not in before), None)
    return Outcome(
        target,
        runs=_last_number(r"number_of_executed_units: (\d+)", said),
        edges=_last_number(r"cov: (\d+)", said),
        inputs=len(list(corpus.iterdir())),
        error=_error(said) if code else "",
        found=found,
    )


def _escaped(token: bytes) -> str:
    return "".join(f"\\x{byte:02x}" for byte in token)


def _last_number(pattern: str, text: str) -> int:
    return max((int(number) for number in re.findall(pattern, text)[-1:]), default=0)


def _error(log: str) -> str:
    """What Python says, else what libFuzzer does, else the last line."""
    _, marked, said = log.partition("Uncaught Python exception: ===\n")
    if marked:
        return said.partition("\n")[0]
    lines = [line for line in log.splitlines() if "ERROR:" in line] or log.splitlines() or ["nothing was said"]
    return lines[-1]


def again(path: Path, targets: dict[str, Target]) -> None:
    """Try a file that was found. Its target is in the name, or is its directory's when it is a regression test."""
    slug = path.name.partition("--")[0] if "--" in path.name else path.parent.name
    target = next((target for target in targets.values() if target.slug == slug), None)
    if target is None:
        sys.exit(f"{path}: no target is named {slug!r}; the name of a file that was found begins with one")
    target.check_time(path.read_bytes())
    print(f"{target.name}: nothing is wrong with {path}")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description="Fuzz the parsers.")
    parser.add_argument("names", nargs="*", help="parts of targets' names as --list has them; none: all")
    parser.add_argument("--seconds", type=int, default=60, help="for each target")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="targets side by side")
    parser.add_argument("--again", type=Path, metavar="FILE", help="try one input")
    parser.add_argument("--list", action="store_true", help="name the targets")
    arguments = parser.parse_args()
    registry.set_up_django()
    targets = registry.load_all()
    if arguments.again:
        again(arguments.again, targets)
        return
    chosen = [
        (module, target)
        for module in registry.MODULES
        for target in registry.load(module).values()
        if not arguments.names or any(name.lower() in target.slug for name in arguments.names)
    ]
    if not chosen:
        sys.exit(f"no target's name has any of {arguments.names}; --list names them")
    if arguments.list:
        print("\n".join(f"{target.slug} ({module})" for module, target in chosen))
        return
    if importlib.util.find_spec("atheris") is None:
        sys.exit("atheris is not installed: there are packages of it for Linux on x86-64; run this there")
    failed = 0
    with ThreadPoolExecutor(arguments.jobs) as pool:
        for outcome in pool.map(run, *zip(*chosen, strict=True), [arguments.seconds] * len(chosen)):
            print(outcome, flush=True)
            failed += bool(outcome.error)
    print(f"{len(chosen)} targets, {failed} failed")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
