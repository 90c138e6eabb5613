"""What is wrong with an archive."""

from __future__ import annotations


class ArchiveError(Exception):
    """The archive is none, is damaged, or unpacks to far more than it is; the text is for its owner."""
