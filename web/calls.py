"""The base of JSON calls: sessions, strict bodies. What they do is their packages'."""

from __future__ import annotations

from typing import Any, ClassVar

from rest_framework.exceptions import ParseError
from rest_framework.parsers import JSONParser
from rest_framework.renderers import JSONRenderer
from rest_framework.request import Request
from rest_framework.serializers import Serializer, ValidationError
from rest_framework.views import APIView

from accounts.models import LoginSession

from .interfaces import Interface
from .sessions import session_for_call


class StrictSerializer(Serializer[Any]):
    """Refuses fields that it does not know: what a client misspells is not silently ignored."""

    def to_internal_value(self, data: Any) -> Any:
        if isinstance(data, dict) and (unknown := sorted(map(str, data.keys() - self.fields.keys()))):
            raise ValidationError({name: ["unknown field"] for name in unknown})
        return super().to_internal_value(data)


class BodyParser(JSONParser):
    """JSON, whose nesting may be a client's attempt to use up our stack."""

    def parse(self, stream: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            return super().parse(stream, *args, **kwargs)
        except RecursionError:
            raise ParseError("it is nested too deeply") from None


class Call(APIView):
    """A call of the JSON API. OPTIONS is no method of any: nothing here is for other sites."""

    http_method_names = ["get", "head", "post", "put", "patch", "delete"]
    parser_classes = [BodyParser]
    renderer_classes = [JSONRenderer]


class SessionCall(Call):
    """A call that needs a session of its interface and the CSRF token; both are checked before anything else."""

    interface: ClassVar[Interface]
    session: LoginSession

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        super().initial(request, *args, **kwargs)
        self.session = session_for_call(request._request, self.interface)
