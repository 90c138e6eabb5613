"""The API for programs that read OpenAPI: made of the serializers that validate, with the webhooks beside the calls."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from typing import Any, Final

import yaml
from django.http import HttpRequest, HttpResponse
from django.views.decorators.http import require_safe
from drf_spectacular.generators import SchemaGenerator
from drf_spectacular.openapi import AutoSchema
from drf_spectacular.utils import OpenApiResponse

from server.version import VERSION

from .errors import MEANINGS, Code
from .serializers import EmptyResult, Error

TITLE: Final = "Mox webapi"
SECURITY: Final[list[dict[str, list[str]]]] = [{"basic": []}, {"token": []}]
SCHEMES: Final = {
    "basic": {
        "type": "http",
        "scheme": "basic",
        "description": "An email address of the account, and its password or a token.",
    },
    "token": {"type": "http", "scheme": "bearer", "description": "A token, made by mox token add."},
}
FORMS: Final = ("application/x-www-form-urlencoded", "multipart/form-data")
_FILES: Final = {
    "alternativefile": "More forms of the text.",
    "inlinefile": "Shown by the HTML, by the Content-ID that the part has in its header.",
    "attachedfile": "Attached.",
}
_NOTHING: Final = {"type": "object", "additionalProperties": False}
_PLAIN: Final = {
    401: "No credentials, or bad ones.",
    403: "The call comes from a page of another site, or the token has no scope for it.",
    429: "Too many failed logins, or requests.",
}


class CallSchema(AutoSchema):
    """What a call is in OpenAPI. Its page is not part of the API."""

    view: Any

    def get_operation(self, path: str, path_regex: str, path_prefix: str, method: str, registry: Any) -> Any:
        if method != "POST":
            return None
        return super().get_operation(path, path_regex, path_prefix, method, registry)

    def get_operation_id(self) -> str:
        return str(self.view.name())

    def get_summary(self) -> str:
        return str(self.view.summary)

    def get_description(self) -> str:  # type: ignore[override]  # drf-spectacular passes nothing, as DRF does
        codes = (*self.view.errors, Code.USER, Code.SERVER, Code.PROTOCOL)
        listed = "\n".join(f"- `{code.value}`: {MEANINGS[code]}" for code in codes)
        return f"{self.view.summary}\n\nScope of tokens: `{self.view.scope.value}`. Errors:\n\n{listed}"

    def get_tags(self) -> list[str]:
        return ["v0"]

    def get_auth(self) -> list[dict[str, list[str]]]:
        return SECURITY

    def get_request_serializer(self) -> Any:
        return self.view.request_serializer

    def get_response_serializers(self) -> Any:
        made = self.view.response_serializer
        plain = {status: OpenApiResponse(str, text) for status, text in _PLAIN.items()}
        return {200: made or bytes, 400: Error, **plain}

    def _get_request_body(self, direction: str = "request") -> Any:
        component = self.resolve_serializer(self.view.request_serializer(), "request")
        shape: Any = component.ref if component else _NOTHING
        text = {
            "type": "string",
            "contentMediaType": "application/json",
            "contentSchema": shape,
            "example": json.dumps(self.view.example, ensure_ascii=False),
        }
        properties: dict[str, Any] = {"request": text}
        multipart = dict(properties)
        if self.view.name() == "Send":
            for name, what in _FILES.items():
                files = {"type": "array", "items": {"type": "string", "format": "binary"}, "description": what}
                multipart[name] = files
        content: dict[str, Any] = {"application/json": {"schema": shape, "example": self.view.example}}
        for media_type, fields in zip(FORMS, (properties, multipart), strict=True):
            content[media_type] = {"schema": {"type": "object", "properties": fields, "required": ["request"]}}
        return {"content": content, "required": True}

    def _get_response_for_code(self, serializer: Any, status_code: Any, *args: Any, **options: Any) -> Any:
        base: Any = super()  # which has no types
        found = base._get_response_for_code(serializer, status_code, *args, **options)
        if status_code == "200" and self.view.response_serializer is EmptyResult:
            found["content"] = {"application/json": {"schema": _NOTHING}}
            found.setdefault("description", "")
        elif status_code == "200" and self.view.response_serializer is None:
            found["content"] = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
            if self.view.name() == "MessageRawGet":
                found["content"] = {"text/plain": {"schema": {"type": "string"}}}
        elif status_code in map(str, _PLAIN):
            found["content"] = {"text/plain": {"schema": {"type": "string"}}}
            if status_code == "403":
                found["content"]["application/json"] = {"schema": {"$ref": "#/components/schemas/Error"}}
        return found


@functools.cache
def document() -> Mapping[str, Any]:
    """The document without what depends on the request."""
    generator: Any = SchemaGenerator  # which has no types
    schema: dict[str, Any] = generator(urlconf="webapi.urls").get_schema(request=None, public=True)
    schema["info"] = {"title": TITLE, "version": "0", "x-server-version": VERSION, "description": _ABOUT}
    components = schema["components"]["schemas"]
    for name in _STRICT & components.keys():
        components[name]["additionalProperties"] = False
        components[name].pop("description", None)  # is for who reads the code
    components["Error"]["properties"]["Code"] = {"type": "string", "enum": [code.value for code in Code]}
    schema["components"]["securitySchemes"] = SCHEMES
    for path in schema["paths"].values():
        operation = path["post"]
        if operation["operationId"] == "Send":
            operation["parameters"] = [_IDEMPOTENCY_KEY]
            for status in (409, 422):
                operation["responses"][str(status)] = dict(operation["responses"]["400"])
    schema["webhooks"] = _webhooks()
    return schema


_STRICT: Final = {
    *("SendRequest", "NameAddress", "File", "SuppressionAddRequest", "EmailAddressRequest"),
    *("MessageRequest", "PartRequest", "FlagsRequest", "MoveRequest"),
}
_IDEMPOTENCY_KEY: Final = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "description": "The call is done once in 24 hours, however often it comes with this key.",
    "schema": {"type": "string", "minLength": 1, "maxLength": 256, "pattern": "^[ -~]+$"},
}
_ABOUT: Final = (
    "Mail for programs. Requests are JSON objects, in the form field `request` or as the body. "
    "Fields may be added to answers: ignore those that you do not know."
)


def _webhooks() -> dict[str, Any]:
    from . import webhooks

    return {
        name: {
            "post": {
                "operationId": name,
                "summary": about,
                "tags": ["webhooks"],
                "parameters": [
                    {"name": header, "in": "header", "required": True, "schema": {"type": "string"}}
                    for header in webhooks.HEADERS
                ],
                "requestBody": {
                    "required": True,
                    "content": {"application/json": {"schema": schema, "example": example}},
                },
                "responses": {"2XX": {"description": "The call is done; anything else has it made again."}},
            }
        }
        for name, about, schema, example in webhooks.descriptions()
    }


def _for(request: HttpRequest) -> dict[str, Any]:
    base = request.build_absolute_uri(request.path).rpartition("/v0/")[0]
    return {**document(), "servers": [{"url": base}]}


@require_safe
def as_json(request: HttpRequest) -> HttpResponse:
    return HttpResponse(
        json.dumps(_for(request), ensure_ascii=False, indent=1) + "\n", content_type="application/json; charset=utf-8"
    )


@require_safe
def as_yaml(request: HttpRequest) -> HttpResponse:
    return HttpResponse(text(_for(request)), content_type="application/yaml; charset=utf-8")


def text(schema: Mapping[str, Any]) -> str:
    """In YAML, as it is kept in docs/openapi.yaml."""
    plain = json.loads(json.dumps(schema))
    return yaml.safe_dump(plain, allow_unicode=True, sort_keys=False, width=120)
