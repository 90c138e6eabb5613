"""What is wrong with how the server was started, told to whoever started it."""

from __future__ import annotations


class EnvironmentProblem(Exception):
    """A variable or directory that cannot be used: the text is one line that names it, its value and the remedy."""
