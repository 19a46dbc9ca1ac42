"""Failures as HTTP answers: the same words as everywhere, the nearest status."""

from __future__ import annotations

import json
from typing import Any, Final

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from hyperlog.errors import HyperError, NotFound
from hypernode.api.codec import error_fields
from hypernode.errors import BadRequest


class UnsupportedBody(BadRequest):
    """A body of another type than JSON: what a page of another origin could send without being asked."""


class Answer(JSONResponse):
    """JSON in ASCII: a name that is no UTF-8 is text with lone surrogates, which only escapes can carry."""

    def render(self, content: Any) -> bytes:
        return json.dumps(content, allow_nan=False, separators=(",", ":")).encode("ascii")


_STATUSES: Final = {"not_found": 404, "refused": 422, "conflict": 409, "unavailable": 503, "corrupt": 500}


def status_of(error: HyperError) -> int:
    """422 for what was understood and refused, 400 for what was not understood, 500 for a bug and for corrupt data."""
    if isinstance(error, BadRequest):
        return 415 if isinstance(error, UnsupportedBody) else 400
    return _STATUSES.get(error.code, 500)


def failure(error: HyperError, status: int | None = None) -> Answer:
    """`{"error": {"code", "message", "hint"}}`."""
    return Answer({"error": error_fields(error)}, status or status_of(error))


async def on_failure(_request: Request, error: Exception) -> Response:
    """Starlette's handler of `HyperError`."""
    assert isinstance(error, HyperError)
    return failure(error)


async def on_http_error(_request: Request, error: Exception) -> Response:
    """Starlette's handler of what its routes refuse."""
    assert isinstance(error, HTTPException)
    kind = NotFound if error.status_code == 404 else BadRequest
    answer = failure(kind(str(error.detail)), error.status_code)
    answer.headers.update(error.headers or {})
    return answer
