"""The root of every exception the protocol libraries raise."""

from __future__ import annotations


class ProtocolError(Exception):
    """A caller's error, or input with which a protocol cannot go on; most of what a peer causes is a result instead."""
