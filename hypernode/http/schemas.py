"""JSON Schema of Python's types, as far as requests and results use them. Pure.

A `TypedDict` and a frozen dataclass are objects that have their fields; each becomes a named schema that others refer
to. A schema says what is sent, so a result's fields are all required unless `NotRequired` says otherwise. Fields may
come to a result within a version of the API: clients pass over what they do not know.
"""

from __future__ import annotations

import dataclasses
import inspect
import types
from enum import StrEnum
from typing import Annotated, Any, Final, Literal, Union, get_args, get_origin, get_type_hints, is_typeddict

Json = dict[str, Any]

_SCALARS: Final[dict[Any, Json]] = {
    str: {"type": "string"},
    bool: {"type": "boolean"},
    float: {"type": "number"},
    int: {"type": "integer", "format": "int64"},
    type(None): {"type": "null"},
}


class Schemas:
    """Schemas of types; `named` collects those that others refer to, by name."""

    def __init__(self) -> None:
        self.named: dict[str, Json] = {}

    def of(self, hint: Any) -> Json:
        """The schema of `hint`. Raises `TypeError` for a type that JSON does not have."""
        hint = getattr(hint, "__supertype__", hint)
        if hint in _SCALARS:
            return dict(_SCALARS[hint])
        origin, arguments = get_origin(hint), get_args(hint)
        if origin is Annotated:
            return self._annotated(arguments[1:])
        if origin in (Union, types.UnionType):
            return _either([self.of(option) for option in arguments])
        if origin in (list, tuple):
            return {"type": "array", "items": self.of(arguments[0])}
        if origin is Literal:
            return {"enum": list(arguments)}
        if origin in (dict, types.MappingProxyType) or getattr(origin, "__name__", "") == "Mapping":
            value = arguments[1]
            return {"type": "object"} if value is Any else {"type": "object", "additionalProperties": self.of(value)}
        if isinstance(hint, type) and issubclass(hint, StrEnum):
            return {"enum": [member.value for member in hint]}
        if is_typeddict(hint) or dataclasses.is_dataclass(hint):
            return self._reference(hint)
        raise TypeError(f"{hint} is nothing that JSON has")

    def _reference(self, kind: Any) -> Json:
        if kind.__name__ not in self.named:
            self.named[kind.__name__] = {}  # it may refer to itself
            self.named[kind.__name__] = self._object(kind)
        return {"$ref": f"#/components/schemas/{kind.__name__}"}

    def _object(self, kind: Any) -> Json:
        hints = get_type_hints(kind, include_extras=True)
        if is_typeddict(kind):
            fields, required = list(hints), sorted(kind.__required_keys__)
        else:
            fields = required = [field.name for field in dataclasses.fields(kind)]
        return {
            "type": "object",
            "description": inspect.cleandoc(kind.__doc__ or ""),
            "properties": {name: self.of(_bare(hints[name])) for name in fields},
            "required": required,
        }

    def _annotated(self, kinds: tuple[Any, ...]) -> Json:
        if len(kinds) == 1:
            return self._reference(kinds[0])
        parts = [self._object(kind) for kind in kinds]
        return {
            "type": "object",
            "properties": {name: schema for part in parts for name, schema in part["properties"].items()},
            "required": [name for part in parts for name in part["required"]],
        }


def _bare(hint: Any) -> Any:
    """Without `NotRequired`."""
    return get_args(hint)[0] if getattr(get_origin(hint), "_name", "") == "NotRequired" else hint


def _either(schemas: list[Json]) -> Json:
    """One of them; `null` beside a plain type is a second type."""
    if all(set(schema) <= {"type", "format", "items"} and isinstance(schema["type"], str) for schema in schemas):
        merged: Json = {}
        for schema in schemas:
            merged |= schema
        return {**merged, "type": [schema["type"] for schema in schemas]}
    return {"anyOf": schemas}
