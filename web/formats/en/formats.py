"""Django reads these names."""

from __future__ import annotations

from typing import Final

DATE_FORMAT: Final = "Y-m-d"
DATETIME_FORMAT: Final = "Y-m-d H:i:s"
SHORT_DATETIME_FORMAT: Final = "Y-m-d H:i"
