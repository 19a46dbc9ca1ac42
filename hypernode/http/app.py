"""The API's site: every route of it, behind one guard."""

from __future__ import annotations

from functools import partial
from typing import Final

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.routing import BaseRoute, Route

from hyperlog.errors import HyperError
from hypernode.http import dashboard, metrics, rest
from hypernode.http.answers import on_failure, on_http_error
from hypernode.http.guard import guarded
from hypernode.http.openapi import make_document
from hypernode.http.server import Application
from hypernode.http.sites import read_token
from hypernode.node import Node
from hypernode.operations import operate

_OPEN_PATHS: Final = frozenset({"/healthz", "/openapi.json"}) | dashboard.PATHS


def make_app(routes: list[BaseRoute], token: str | None, open_paths: frozenset[str] = frozenset()) -> Application:
    """An application of these routes for those who may ask; failures become answers in words."""
    handlers = {HyperError: on_failure, HTTPException: on_http_error}
    return guarded(Starlette(routes=routes, exception_handlers=handlers), token, open_paths)


def api_routes(node: Node) -> list[BaseRoute]:
    """All that the API's site serves."""
    return [
        Route("/healthz", health),
        Route("/openapi.json", describe),
        *dashboard.routes(),
        *metrics.routes(node),
        *rest.routes(partial(operate, node)),
    ]


async def health(_request: Request) -> PlainTextResponse:
    """The node answers: for those who restart it when it does not."""
    return PlainTextResponse("ok\n")


async def describe(_request: Request) -> JSONResponse:
    """The OpenAPI document."""
    return JSONResponse(make_document())


def make_api(node: Node) -> Application:
    """The API's site. The home's own token is made if there is none. Raises `Refused`."""
    config = node.config
    token = read_token(config.http_token or config.own_http_token, make=config.http_token is None)
    return make_app(api_routes(node), token, _OPEN_PATHS)
