"""Delivery status notifications (RFC 3464, 6522, 6533): composing and reading; leaves whom to tell what to others."""

from __future__ import annotations

from .composing import compose
from .parsing import decode_status, parse
from .values import Action, Dsn, DsnError, DsnRecipient, NameIP

__all__ = ["Action", "Dsn", "DsnError", "DsnRecipient", "NameIP", "compose", "decode_status", "parse"]
