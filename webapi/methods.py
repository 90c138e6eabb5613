"""The methods of v0. Each class is a call by its name, and what its page and the OpenAPI document say about it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Final

from django.http import StreamingHttpResponse
from django.http.response import HttpResponseBase
from rest_framework.response import Response

from accounts.models import APIToken
from mailqueue import idempotency, mailjson, suppressions
from mailqueue.idempotency import Begun, InProgress, KeyMismatch, Replay
from mailqueue.suppressions import SuppressionError
from protocols.names import BadAddress
from store.content import Reader
from store.messages import FlagMode
from web.requests import info

from . import messages, serializers
from .calls import Method
from .errors import CallError, Code
from .parsers import Body, Upload
from .sending import Circumstances, Sending, Sent

IDEMPOTENCY_KEY_MAX: Final = 256  # characters
_BLOCK: Final = 256 * 1024

Scope = APIToken.Scope


class Send(Method):
    summary = "Send a message to one or more recipients."
    scope = Scope.SEND
    request_serializer = serializers.SendRequest
    response_serializer = serializers.SendResult
    errors = (
        Code.MISSING_BODY,
        Code.MULTIPLE_FROM,
        Code.BAD_ADDRESS,
        Code.BAD_FROM,
        Code.DOMAIN_DISABLED,
        Code.NO_RECIPIENTS,
        Code.MESSAGE_LIMIT_REACHED,
        Code.RECIPIENT_LIMIT_REACHED,
        Code.MALFORMED_MESSAGE_ID,
        Code.MESSAGE_TOO_LARGE,
        Code.SENT_OVER_QUOTA,
        Code.BAD_IDEMPOTENCY_KEY,
        Code.IDEMPOTENCY_MISMATCH,
        Code.IDEMPOTENCY_IN_PROGRESS,
    )
    example = {
        "To": [{"Name": "Jane Doe", "Address": "jane@example.net"}],
        "Subject": "Invoice 7",
        "Text": "Hello Jane,\n\nyour invoice is attached.\n",
        "Extra": {"order": "7"},
        "AttachedFiles": [{"Name": "invoice.txt", "ContentType": "text/plain", "Data": "VG90YWw6IDcK"}],
        "SaveSent": True,
    }

    def call(self, given: Mapping[str, Any], body: Body) -> HttpResponseBase:
        begun = self._begin(given, body)
        if isinstance(begun, Replay):
            return Response(begun.response, begun.status, headers={"Idempotency-Replayed": "true"})
        known = info(self.request._request)
        circumstances = Circumstances(known.id, known.tls, known.endpoint.max_message_size, self.write)
        try:
            sent = Sending(self.caller, given, body.uploads, circumstances).send(_completion(begun))
        except InProgress as exc:
            raise _in_progress() from exc
        except Exception:
            if begun is not None:
                begun.abandon()
            raise
        if sent.error is not None:
            raise sent.error
        return Response(sent.answer)

    def _begin(self, given: Mapping[str, Any], body: Body) -> Begun | Replay | None:
        key = self.request.headers.get("Idempotency-Key")
        if key is None:
            return None
        if not (1 <= len(key) <= IDEMPOTENCY_KEY_MAX and key.isascii() and key.isprintable()):
            raise CallError(
                Code.BAD_IDEMPOTENCY_KEY,
                f"Idempotency-Key must be 1 to {IDEMPOTENCY_KEY_MAX} printable characters",
            )
        try:
            return idempotency.begin(self.write, self.caller.account.pk, self.name(), key, _digest(given, body.uploads))
        except KeyMismatch as exc:
            raise CallError(Code.IDEMPOTENCY_MISMATCH, "the Idempotency-Key was used for another request") from exc
        except InProgress as exc:
            raise _in_progress() from exc


def _completion(begun: Begun | None) -> Any:
    """What stores the answer in the transaction that queues the message."""
    if begun is None:
        return None

    def complete(sent: Sent) -> None:
        error = sent.error
        if error is None:
            begun.complete(sent.answer, 200)
        else:
            begun.complete({"Code": error.code.value, "Message": error.message, **error.more}, error.status)

    return complete


def _in_progress() -> CallError:
    text = "the first call with this Idempotency-Key has not ended, try again in a moment"
    return CallError(Code.IDEMPOTENCY_IN_PROGRESS, text)


def _digest(given: Mapping[str, Any], uploads: list[Upload]) -> bytes:
    """The same for requests that mean the same."""
    digest = hashlib.sha256(json.dumps(given, sort_keys=True, default=str).encode("utf-8", "replace"))
    for upload in uploads:
        content = hashlib.sha256()
        while block := upload.file.read(_BLOCK):
            content.update(block)
        upload.file.seek(0)
        about = [upload.field, upload.name, upload.content_type, upload.content_id, content.hexdigest()]
        digest.update(json.dumps(about).encode())
    return digest.digest()


class SuppressionList(Method):
    summary = "List the addresses that no messages of the account are sent to."
    scope = Scope.SUPPRESSIONS_READ
    request_serializer = serializers.Empty
    response_serializer = serializers.SuppressionListResult
    example = {}

    def call(self, given: Mapping[str, Any], body: Body) -> HttpResponseBase:
        listed = suppressions.of_account(self.caller.account)
        return Response(
            {
                "Suppressions": [
                    {
                        "ID": each.pk,
                        "Created": mailjson.moment(each.created),
                        "Account": self.caller.account.name,
                        "BaseAddress": each.base_address,
                        "OriginalAddress": each.original_address,
                        "Manual": each.manual,
                        "Reason": each.reason,
                    }
                    for each in listed
                ]
            }
        )


class _SuppressionMethod(Method):
    errors: ClassVar[tuple[Code, ...]] = (Code.BAD_ADDRESS, Code.ERROR)

    def call(self, given: Mapping[str, Any], body: Body) -> HttpResponseBase:
        try:
            return Response(self.change(given))
        except BadAddress as exc:
            raise CallError(Code.BAD_ADDRESS, f'parsing address "{given["EmailAddress"][:200]}": {exc}') from exc
        except SuppressionError as exc:
            raise CallError(Code.ERROR, str(exc)) from exc

    def change(self, given: Mapping[str, Any]) -> Mapping[str, Any]:
        raise NotImplementedError


class SuppressionAdd(_SuppressionMethod):
    summary = "Add an address to the suppression list of the account."
    scope = Scope.SUPPRESSIONS_WRITE
    request_serializer = serializers.SuppressionAddRequest
    response_serializer = serializers.EmptyResult
    example = {"EmailAddress": "jane@example.net", "Manual": True, "Reason": "asked to get no more"}

    def change(self, given: Mapping[str, Any]) -> Mapping[str, Any]:
        account = self.caller.account
        suppressions.add(account, given["EmailAddress"], manual=given["Manual"], reason=given["Reason"])
        return {}


class SuppressionRemove(_SuppressionMethod):
    summary = "Remove an address from the suppression list of the account."
    scope = Scope.SUPPRESSIONS_WRITE
    request_serializer = serializers.EmailAddressRequest
    response_serializer = serializers.EmptyResult
    example = {"EmailAddress": "jane@example.net"}

    def change(self, given: Mapping[str, Any]) -> Mapping[str, Any]:
        suppressions.remove(self.caller.account, given["EmailAddress"])
        return {}


class SuppressionPresent(_SuppressionMethod):
    summary = "Tell whether an address is on the suppression list of the account."
    scope = Scope.SUPPRESSIONS_READ
    request_serializer = serializers.EmailAddressRequest
    response_serializer = serializers.SuppressionPresentResult
    errors = (Code.BAD_ADDRESS,)
    example = {"EmailAddress": "jane@example.net"}

    def change(self, given: Mapping[str, Any]) -> Mapping[str, Any]:
        return {"Present": bool(suppressions.lookup(given["EmailAddress"], self.caller.account))}


class MessageGet(Method):
    summary = "Get a message: header, texts, structure, and how it came."
    scope = Scope.MESSAGES_READ
    request_serializer = serializers.MessageRequest
    response_serializer = serializers.MessageGetResult
    errors = (Code.MESSAGE_NOT_FOUND,)
    example = {"MsgID": 17}

    def call(self, given: Mapping[str, Any], body: Body) -> HttpResponseBase:
        return Response(messages.get(self.caller.account, given["MsgID"]))


class MessageRawGet(Method):
    summary = "Get a message as it is stored, byte for byte."
    scope = Scope.MESSAGES_READ
    request_serializer = serializers.MessageRequest
    response_serializer = None
    errors = (Code.MESSAGE_NOT_FOUND,)
    example = {"MsgID": 17}

    def call(self, given: Mapping[str, Any], body: Body) -> HttpResponseBase:
        reader = messages.raw(self.caller.account, given["MsgID"])
        response = _attachment(_pieces(reader), "text/plain", "message.eml")
        response["Content-Length"] = str(reader.size)
        return response


class MessagePartGet(Method):
    summary = "Get a part of a message, such as an attached file, decoded."
    scope = Scope.MESSAGES_READ
    request_serializer = serializers.PartRequest
    response_serializer = None
    errors = (Code.MESSAGE_NOT_FOUND, Code.PART_NOT_FOUND)
    example = {"MsgID": 17, "PartPath": [1]}

    def call(self, given: Mapping[str, Any], body: Body) -> HttpResponseBase:
        pieces = messages.part_content(self.caller.account, given["MsgID"], given["PartPath"])
        # What an outsider sent must never be shown as a page of ours.
        return _attachment(pieces, "application/octet-stream", "part.bin")


def _pieces(reader: Reader) -> Iterator[bytes]:
    with reader:
        yield from reader.chunks()


def _attachment(pieces: Iterator[bytes], content_type: str, name: str) -> StreamingHttpResponse:
    return StreamingHttpResponse(
        pieces,
        content_type=content_type,
        headers={"Content-Disposition": f'attachment; filename="{name}"', "Content-Security-Policy": "sandbox"},
    )


class MessageDelete(Method):
    summary = "Remove a message for good."
    scope = Scope.MESSAGES_WRITE
    request_serializer = serializers.MessageRequest
    response_serializer = serializers.EmptyResult
    errors = (Code.MESSAGE_NOT_FOUND,)
    example = {"MsgID": 17}

    def call(self, given: Mapping[str, Any], body: Body) -> HttpResponseBase:
        messages.delete(self.caller.account, given["MsgID"], self.write)
        return Response({})


class _FlagsMethod(Method):
    scope = Scope.MESSAGES_WRITE
    request_serializer = serializers.FlagsRequest
    response_serializer = serializers.EmptyResult
    errors = (Code.MESSAGE_NOT_FOUND,)
    example = {"MsgID": 17, "Flags": ["\\Seen", "invoice"]}
    mode: FlagMode

    def call(self, given: Mapping[str, Any], body: Body) -> HttpResponseBase:
        messages.change_flags(self.caller.account, given["MsgID"], self.mode, given["Flags"], self.write)
        return Response({})


class MessageFlagsAdd(_FlagsMethod):
    summary = "Add flags and keywords to a message."
    mode = FlagMode.ADD


class MessageFlagsRemove(_FlagsMethod):
    summary = "Remove flags and keywords from a message."
    mode = FlagMode.REMOVE


class MessageMove(Method):
    summary = "Move a message to another mailbox."
    scope = Scope.MESSAGES_WRITE
    request_serializer = serializers.MoveRequest
    response_serializer = serializers.EmptyResult
    errors = (Code.MESSAGE_NOT_FOUND,)
    example = {"MsgID": 17, "DestMailboxName": "Archive"}

    def call(self, given: Mapping[str, Any], body: Body) -> HttpResponseBase:
        messages.move(self.caller.account, given["MsgID"], given["DestMailboxName"], self.write)
        return Response({})


METHODS: Final[tuple[type[Method], ...]] = (
    Send,
    SuppressionList,
    SuppressionAdd,
    SuppressionRemove,
    SuppressionPresent,
    MessageGet,
    MessageRawGet,
    MessagePartGet,
    MessageDelete,
    MessageFlagsAdd,
    MessageFlagsRemove,
    MessageMove,
)
"""In the order of the index page. Names are those of the published API, exactly."""
