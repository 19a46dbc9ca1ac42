"""The dashboard: three static files. What they show, the page asks of the API with the token that the person gave it.

The files hold no secret, so they need no token. guard.py's policy lets the page run its own script and nothing else.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

_STATIC: Final = Path(__file__).parent / "static"
_FILES: Final = {
    "/": ("index.html", "text/html"),
    "/dashboard.js": ("dashboard.js", "text/javascript"),
    "/dashboard.css": ("dashboard.css", "text/css"),
}
PATHS: Final = frozenset(_FILES)


def routes() -> list[BaseRoute]:
    """One for each file."""
    return [
        Route(path, partial(_send, (_STATIC / name).read_bytes(), kind), methods=["GET"])
        for path, (name, kind) in _FILES.items()
    ]


async def _send(content: bytes, kind: str, _request: Request) -> Response:
    return Response(content, media_type=kind)
