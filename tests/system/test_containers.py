"""The set-ups for containers: docker-compose takes them, and what they run is what other tests run without one."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest

from mox_project.serve import Kind
from tests.system.servers import PROJECT

ONE_MACHINE, SCALED = "docker-compose.yml", "docker-compose.scale.yml"


def services(file: str) -> dict[str, str]:
    """Each service of a file with its command, as docker-compose understands it."""
    if shutil.which("docker-compose") is None:
        pytest.skip("docker-compose is not installed")
    checked = subprocess.run(
        ["docker-compose", "-f", file, "config"], cwd=PROJECT, capture_output=True, text=True, timeout=60
    )
    assert checked.returncode == 0, checked.stderr
    section = re.search(r"^services:\n((?:  .*\n)+)", checked.stdout, re.MULTILINE)
    assert section is not None
    found = re.split(r"^  (\S+):\n", section[1], flags=re.MULTILINE)[1:]
    commands = (re.search(r"^    command: (.*)$", text, re.MULTILINE) for text in found[1::2])
    return {name: command[1] if command else "" for name, command in zip(found[::2], commands, strict=True)}


def test_one_machine_runs_one_server() -> None:
    assert services(ONE_MACHINE) == {"mox": "mox serve"}


def test_the_scaled_set_up_has_each_kind_of_node() -> None:
    found = services(SCALED)
    kinds = [command.removeprefix("mox serve --only ") for command in found.values() if "--only" in command]
    assert sorted(kinds) == sorted([kind for kind in Kind if kind != Kind.BEAT] * 2 + [Kind.BEAT])
    assert found["migrate"] == "mox migrate"
    assert {"postgres", "redis"} <= found.keys()


def test_the_image_has_what_the_server_imports() -> None:
    """What the image leaves out is nothing that runs in it."""
    left_out = set((PROJECT / ".dockerignore").read_text().split())
    packages = {path.parent.name for path in PROJECT.glob("*/__init__.py")}
    assert packages & left_out == {"bench", "tests"}
