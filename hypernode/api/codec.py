"""Requests and replies as JSON lines.

    →  {"v": 1, "op": "boot", "link": "hyper://…", …}          one request a connection
    ←  {"event": "stage", …}                                    any number
    ←  {"result": {…}}  or  {"error": {"code", "message", "hint"}}
    →  {"release": true}                                        ends a held request

Unknown operations and fields are refused by name, so that an older node says what it does not know. `hello` is answered
in every version, and tells the node's.
"""

from __future__ import annotations

import dataclasses
import json
import os
import types
from collections.abc import Callable, Mapping
from typing import Any, Final, Union, get_args, get_origin, get_type_hints

from hyperlog.errors import Conflict, Corrupt, HyperError, NotFound, Refused, Unavailable
from hypernode.api.node_requests import Hello
from hypernode.api.requests import REQUESTS, Request
from hypernode.errors import BadRequest

API_VERSION: Final = 1
_NUMBER_MAX: Final = 1 << 63
RELEASE: Final = b'{"release":true}\n'

_NEWER: Final = "if the client is of a newer version of hypernode, start the daemon anew, and then the containers"

Json = dict[str, Any]

_KINDS: Final[dict[str, type[HyperError]]] = {
    kind.code: kind for kind in (NotFound, Refused, Conflict, Unavailable, Corrupt, HyperError)
}


def encode_request(request: Request) -> bytes:
    """One line. What is as it is by default is left out: an older node need not know what nobody asks for."""
    usual = {field.name: field.default for field in dataclasses.fields(request)}
    told = {name: value for name, value in dataclasses.asdict(request).items() if value != usual[name]}
    return _line({"v": API_VERSION, "op": request.op, **told})


def decode_request(line: bytes) -> Request:
    """The request that `line` spells. Raises `BadRequest`."""
    fields = decode_object(line, is_strict=True)
    version, op = fields.pop("v", None), fields.pop("op", None)
    if op == Hello.op:
        return Hello()
    if version != API_VERSION:
        raise BadRequest(
            f"API version {version!r}; this node speaks {API_VERSION}", "use the same version on both sides"
        )
    kind = REQUESTS.get(op) if isinstance(op, str) else None
    if kind is None:
        raise BadRequest(f"unknown operation {op!r}", _NEWER)
    hints = get_type_hints(kind)
    known = {field.name: hints[field.name] for field in dataclasses.fields(kind)}
    for name, value in fields.items():
        if name not in known:
            raise BadRequest(f"{op} has no field {name!r}", _NEWER)
        if not _fits(value, known[name]):
            raise BadRequest(f"field {name!r} of {op} has the wrong type")
        if isinstance(value, list):
            fields[name] = tuple(value)
    try:
        return kind(**fields)
    except TypeError:
        raise BadRequest(f"{op} lacks a field") from None


def decode_object(line: bytes, *, is_strict: bool = False, hook: Callable[[Json], Json] | None = None) -> Json:
    """The JSON object in `line`. Raises `BadRequest`; with `is_strict` also for a field that is there twice."""
    try:
        value = json.loads(line, object_hook=hook, object_pairs_hook=_each_once if is_strict else None)
    except (ValueError, RecursionError):
        raise BadRequest("not a JSON line") from None
    if not isinstance(value, dict):
        raise BadRequest("not a JSON object")
    return value


class Answer(dict[str, Any]):
    """An object that a node sent. A field that is not there is told in words: nodes outlive upgrades."""

    def __missing__(self, name: str) -> Any:
        raise Unavailable(
            f"the node's answer has no {name!r}: it was started with an older version of hypernode",
            "start the daemon anew, and then the containers",
        )


def decode_answer(line: bytes) -> Answer:
    """What a node sent, with all objects in it as `Answer`. Raises `BadRequest`."""
    return Answer(decode_object(line, hook=Answer))


def _each_once(pairs: list[tuple[str, Any]]) -> Json:
    """Who reads a field that is there twice may take the one or the other: nobody is asked to agree on which."""
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise ValueError("a field is there twice")
    return fields


def encode_event(kind: str, fields: Mapping[str, Any]) -> bytes:
    return _line({"event": kind, **fields})


def encode_result(fields: Mapping[str, Any]) -> bytes:
    return _line({"result": dict(fields)})


def encode_failure(error: HyperError) -> bytes:
    return _line({"error": error_fields(error)})


def error_fields(error: HyperError) -> Json:
    """An error as programs see it."""
    return {"code": error.code, "message": error.message, "hint": error.hint}


def decode_failure(fields: Mapping[str, Any]) -> HyperError:
    """The error, as the kind that was raised on the other side."""
    kind = _KINDS.get(str(fields.get("code")), HyperError)
    hint = fields.get("hint")
    return kind(str(fields.get("message")), None if hint is None else str(hint))


def _line(fields: Mapping[str, Any]) -> bytes:
    return json.dumps(fields, separators=(",", ":"), ensure_ascii=True).encode() + b"\n"


def _fits(value: object, hint: Any) -> bool:
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        return any(_fits(value, option) for option in get_args(hint))
    if origin is tuple:
        return isinstance(value, list) and all(_fits(item, str) for item in value)
    if hint is type(None):
        return value is None
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < _NUMBER_MAX  # nan is not
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool) and abs(value) < _NUMBER_MAX
    return _is_text(value) if hint is str else isinstance(value, hint)


def _is_text(value: object) -> bool:
    """Text that the operating system can be given: without NUL, and with a spelling in bytes."""
    try:
        return isinstance(value, str) and b"\0" not in os.fsencode(value)
    except UnicodeEncodeError:
        return False
