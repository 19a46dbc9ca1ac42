"""The description of the API over HTTP (OpenAPI 3.1), made from the request types themselves."""

from __future__ import annotations

import dataclasses
import inspect
import types
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any, Final, Union, get_args, get_origin, get_type_hints

from hypernode.api.codec import API_VERSION
from hypernode.api.requests import Request
from hypernode.http.rest import LINES, LOOKS, OFFERED

Json = dict[str, Any]

_ERRORS: Final = {
    "400": "Not understood: no such field, a wrong type.",
    "401": "No token, or not the token.",
    "404": "Not found.",
    "409": "In conflict with what is here.",
    "415": "A body that is not JSON.",
    "422": "Understood, and refused.",
    "503": "Unavailable: no peer, disk full.",
}


def make_document() -> Json:
    """The whole document."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "hypernode",
            "version": version("hypernode"),
            "description": f"The API of a node, version {API_VERSION}. Every operation is one of docs/API.md.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "security": [{"token": []}],
        "paths": {f"/v1/{op}": _path(op, kind) for op, kind in OFFERED.items()},
        "components": {
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
            "schemas": {
                **{kind.__name__: request_schema(kind) for kind in OFFERED.values()},
                "Answer": _ANSWER,
                "Line": _LINE,
                "Failure": _FAILURE,
            },
        },
    }


def _path(op: str, kind: type[Request]) -> Json:
    words = inspect.cleandoc(kind.__doc__ or "")
    operation: Json = {
        "operationId": op,
        "summary": words.partition("\n")[0],
        "description": words,
        "responses": {
            "200": {
                "description": "Done. In lines: begun, and the last line says how it ended.",
                "content": {
                    "application/json": {"schema": {"$ref": "#/components/schemas/Answer"}},
                    LINES: {"schema": {"$ref": "#/components/schemas/Line"}},
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
    reference = {"$ref": f"#/components/schemas/{kind.__name__}"}
    operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": reference}}}
    return {"post": operation}


def request_schema(kind: type[Request]) -> Json:
    """The JSON Schema of a request's fields."""
    hints = get_type_hints(kind)
    properties: Json = {}
    for field in dataclasses.fields(kind):
        properties[field.name] = _schema(hints[field.name])
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


_SCALARS: Final[Mapping[Any, Json]] = {
    str: {"type": "string"},
    bool: {"type": "boolean"},
    int: {"type": "integer", "format": "int64"},
    float: {"type": "number"},
}


def _schema(hint: Any) -> Json:
    if get_origin(hint) in (Union, types.UnionType):
        (one,) = (option for option in get_args(hint) if option is not type(None))
        schema = _schema(one)
        return {**schema, "type": [schema["type"], "null"]}
    if get_origin(hint) is tuple:
        return {"type": "array", "items": {"type": "string"}}
    return dict(_SCALARS[hint])


def _without_null(schema: Json) -> Json:
    """In a query what is null is left out."""
    kind = schema["type"]
    shown = {name: value for name, value in schema.items() if name != "default" or value is not None}
    return {**shown, "type": kind[0] if isinstance(kind, list) else kind}


def _failure(words: str) -> Json:
    reference = {"schema": {"$ref": "#/components/schemas/Failure"}}
    return {"description": words, "content": {"application/json": reference}}


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
_ANSWER: Final[Json] = {
    "type": "object",
    "properties": {"result": {"type": "object"}, "events": {"type": "array", "items": _EVENT}},
    "required": ["result", "events"],
}
_LINE: Final[Json] = {
    "description": "Each line is one of these; the last is a result or an error.",
    "oneOf": [
        _EVENT,
        {"type": "object", "properties": {"result": {"type": "object"}}, "required": ["result"]},
        _FAILURE,
    ],
}
