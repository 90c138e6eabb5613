"""The version that this server calls itself, where a protocol asks for it."""

from __future__ import annotations

from typing import Final

VERSION: Final = "0.1.0"
