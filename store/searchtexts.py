"""Texts that a search looks at: those stored for it, or made from the message where these are missing or cut."""

from __future__ import annotations

from typing import Any, Final

from django.db.models import Value
from django.db.models.functions import StrIndex

from . import content, text
from .models import Blob, BlobText

CANDIDATES_PER_QUERY: Final = 500  # BlobText rows read at once


class PageTexts:
    """The stored texts of a page's messages, or what is made from their content where it is missing.

    Its questions raise ContentError.
    """

    def __init__(self, candidates: list[int]) -> None:
        self._headers: dict[int, str] = {}
        for start in range(0, len(candidates), CANDIDATES_PER_QUERY):
            chunk = candidates[start : start + CANDIDATES_PER_QUERY]
            self._headers.update(BlobText.objects.filter(pk__in=chunk).values_list("pk", "headers"))
        self._current: tuple[int, str] | None = None  # the blob read last, and its header text

    def field_has(self, blob_id: int, name: str, value: str) -> bool:
        """Whether a header field with this folded name has the folded value."""
        headers = self._headers.get(blob_id)
        if headers is None or len(headers) >= text.HEADERS_MAX:
            headers = self._whole_headers(blob_id)
        return text.has_field(headers, name, value)

    def headers_have(self, blob_id: int, needle: str) -> bool:
        """Whether the folded text is in a header."""
        return needle in self._whole_headers(blob_id)

    def body_has(self, blob_id: int, needle: str) -> bool:
        """Whether the folded text is in the body."""
        stored = BlobText.objects.filter(pk=blob_id).annotate(at=StrIndex("body", Value(needle)))
        found = stored.values_list("at", "truncated").first()
        if found is not None and (found[0] or not found[1]):
            return bool(found[0])
        return self.scanned_body_has(blob_id, needle)

    def scanned_body_has(self, blob_id: int, needle: str) -> bool:
        """Whether the body has it, whatever is stored."""
        with _opened(blob_id) as (reader, structure):
            tails = {False: "", True: ""}
            for piece in text.body_pieces(reader, structure):
                # The end of the piece before is looked at again: what is sought may begin there.
                joined = tails[piece.attributes] + piece.text
                if needle in joined:
                    return True
                tails[piece.attributes] = joined[len(joined) - len(needle) + 1 :] if len(needle) > 1 else ""
        return False

    def anywhere(self, blob_id: int, needle: str) -> bool:
        """Whether it is in a header or the body, whatever is stored."""
        return self.headers_have(blob_id, needle) or self.scanned_body_has(blob_id, needle)

    def _whole_headers(self, blob_id: int) -> str:
        if self._current is not None and self._current[0] == blob_id:
            return self._current[1]
        with _opened(blob_id) as (reader, structure):
            headers = text.headers_of(reader, structure)
        self._current = (blob_id, headers)
        return headers


class _opened:
    """A blob's content and structure, closed in the end."""

    def __init__(self, blob_id: int) -> None:
        row = Blob.objects.values_list("size", "data", "storage_name", "structure").get(pk=blob_id)
        size, data, storage_name, self._structure = row
        self._reader = content.blob_reader(blob_id, size, data, storage_name)

    def __enter__(self) -> tuple[content.Reader, dict[str, Any]]:
        return self._reader, self._structure

    def __exit__(self, *exc: object) -> None:
        self._reader.close()
