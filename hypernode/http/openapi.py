"""The description of the API over HTTP (OpenAPI 3.1), made from the request types themselves."""

from __future__ import annotations

import dataclasses
import inspect
from importlib.metadata import version
from typing import Any, Final, get_type_hints

from hypernode.api.codec import API_VERSION
from hypernode.api.image_results import Fields
from hypernode.api.requests import Request
from hypernode.api.results import RESULTS
from hypernode.http.event_stream import EVENT_STREAM
from hypernode.http.rest import LINES, LOOKS, OFFERED
from hypernode.http.schemas import Schemas

Json = dict[str, Any]

_ERRORS: Final = {
    "400": "Not understood: no such field, a wrong type.",
    "401": "No token, or not the token.",
    "403": "A page of another site asks.",
    "404": "Not found.",
    "409": "In conflict with what is here.",
    "415": "A body that is not JSON.",
    "421": "Without TLS: another host than this machine's loopback is named.",
    "422": "Understood, and refused.",
    "500": "Corrupt data, or a bug.",
    "503": "Unavailable: no peer, disk full.",
}


def make_document() -> Json:
    """The whole document."""
    results = Schemas()
    paths = {f"/v1/{op}": _path(op, kind, results.of(RESULTS.get(kind, Fields))) for op, kind in OFFERED.items()}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "hypernode",
            "version": str(API_VERSION),
            "description": f"The API of a node (hypernode {version('hypernode')}); docs/API.md tells of it.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "security": [{"token": []}],
        "paths": paths,
        "components": {
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
            "schemas": {
                **{f"{kind.__name__}Request": request_schema(kind) for kind in OFFERED.values()},
                **results.named,
                "Event": _EVENT,
                "Failure": _FAILURE,
            },
        },
    }


def _path(op: str, kind: type[Request], result: Json) -> Json:
    words = inspect.cleandoc(kind.__doc__ or "")
    operation: Json = {
        "operationId": op,
        "summary": words.partition("\n")[0],
        "description": words,
        "responses": {
            "200": {
                "description": "Done. In lines: begun, and the last line says how it ended.",
                "content": {
                    "application/json": {"schema": _answer(result)},
                    LINES: {"schema": _line(result)},
                    EVENT_STREAM: {"schema": {"type": "string"}},
                },
            },
            **{status: _failure(words) for status, words in _ERRORS.items()},
        },
    }
    if kind in LOOKS:
        required = _required(kind)
        operation["parameters"] = [
            {
                "name": name,
                "in": "query",
                "required": name in required,
                "schema": _without_null(schema),
                **({"style": "form", "explode": True} if schema["type"] == "array" else {}),
            }
            for name, schema in request_schema(kind)["properties"].items()
        ]
        return {"get": operation}
    reference = {"$ref": f"#/components/schemas/{kind.__name__}Request"}
    operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": reference}}}
    return {"post": operation}


def request_schema(kind: type[Request]) -> Json:
    """The JSON Schema of a request's fields."""
    hints = get_type_hints(kind)
    properties: Json = {}
    for field in dataclasses.fields(kind):
        properties[field.name] = Schemas().of(hints[field.name])
        if field.default is not dataclasses.MISSING:
            default = field.default
            properties[field.name]["default"] = list(default) if isinstance(default, tuple) else default
    return {
        "type": "object",
        "description": inspect.cleandoc(kind.__doc__ or ""),
        "properties": properties,
        "required": _required(kind),
        "additionalProperties": False,
    }


def _required(kind: type[Request]) -> list[str]:
    return [field.name for field in dataclasses.fields(kind) if field.default is dataclasses.MISSING]


def _without_null(schema: Json) -> Json:
    """In a query what is null is left out."""
    kind = schema["type"]
    shown = {name: value for name, value in schema.items() if name != "default" or value is not None}
    return {**shown, "type": kind[0] if isinstance(kind, list) else kind}


def _answer(result: Json) -> Json:
    return {
        "type": "object",
        "properties": {"result": result, "events": {"type": "array", "items": _EVENT_REFERENCE}},
        "required": ["result", "events"],
        "additionalProperties": False,
    }


def _line(result: Json) -> Json:
    last = {"type": "object", "properties": {"result": result}, "required": ["result"], "additionalProperties": False}
    return {
        "description": "Each line is one of these; the last is a result or an error.",
        "oneOf": [_EVENT_REFERENCE, last, {"$ref": "#/components/schemas/Failure"}],
    }


def _failure(words: str) -> Json:
    reference = {"schema": {"$ref": "#/components/schemas/Failure"}}
    return {"description": words, "content": {"application/json": reference}}


_EVENT_REFERENCE: Final[Json] = {"$ref": "#/components/schemas/Event"}
_EVENT: Final[Json] = {"type": "object", "properties": {"event": {"type": "string"}}, "required": ["event"]}
_FAILURE: Final[Json] = {
    "type": "object",
    "properties": {
        "error": {
            "type": "object",
            "properties": {
                "code": {"enum": ["error", "not_found", "refused", "conflict", "unavailable", "corrupt"]},
                "message": {"type": "string"},
                "hint": {"type": ["string", "null"]},
            },
            "required": ["code", "message", "hint"],
        }
    },
    "required": ["error"],
}
