"""Pins for a team, as the IPFS Pinning Service API (version 1.0.0) spells them: a pin is a seed that a token owns.

    cid       the link or the key of an image, KEY@VERSION for one version; else the newest, whichever it is
    origins   multiaddrs of who has it
    status    queued, pinning, pinned, failed; `info` says why
    delegates where this node can be reached, to bring it what nobody else has

Everybody sees and changes the pins of their own token's name, and no others.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Final, TypeGuard

from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from hyperlog.errors import Conflict, HyperError, NotFound, Refused
from hyperlog.link import Link, parse_link
from hypernode.http.answers import status_of
from hypernode.http.limits import (
    PIN_META_CHARS_MAX,
    PIN_META_MAX,
    PIN_NAME_CHARS_MAX,
    PIN_ORIGINS_MAX,
    PINS_LISTED,
    PINS_LISTED_MAX,
)
from hypernode.limits import PINS_PER_TOKEN_MAX
from hypernode.node import Node
from hypernode.operations.seeding import begin, end
from hypernode.seeding import COMPLETE, FAILED, FETCHING, QUEUED
from hypernode.seeds import Seed, going_on, new_seed_id
from hypernode.tokens import Token
from swarm.addresses import parse_address

_STATUSES: Final = {QUEUED: "queued", FETCHING: "pinning", COMPLETE: "pinned", FAILED: "failed"}
_REASONS: Final = {400: "BAD_REQUEST", 404: "NOT_FOUND", 409: "CONFLICT", 422: "BAD_REQUEST", 503: "UNAVAILABLE"}
_MATCHES: Final[Mapping[str, Callable[[str, str], bool]]] = {
    "exact": lambda name, wanted: name == wanted,
    "iexact": lambda name, wanted: name.lower() == wanted.lower(),
    "partial": lambda name, wanted: wanted in name,
    "ipartial": lambda name, wanted: wanted.lower() in name.lower(),
}

Handler = Callable[[Request], Awaitable[Response]]


def pinning_routes(node: Node) -> list[BaseRoute]:
    """The whole of the service."""
    pins = _Pins(node)
    return [
        Route("/pins", _told(pins.several), methods=["GET"]),
        Route("/pins", _told(pins.add), methods=["POST"]),
        Route("/pins/{requestid}", _told(pins.show), methods=["GET"]),
        Route("/pins/{requestid}", _told(pins.replace), methods=["POST"]),
        Route("/pins/{requestid}", _told(pins.remove), methods=["DELETE"]),
    ]


def _told(handle: Handler) -> Handler:
    """Failures as the specification tells them."""

    async def handling(request: Request) -> Response:
        try:
            return await handle(request)
        except HyperError as error:
            status = 400 if isinstance(error, Refused) else status_of(error)
            details = error.message if error.hint is None else f"{error.message} ({error.hint})"
            return JSONResponse({"error": {"reason": _REASONS.get(status, "ERROR"), "details": details}}, status)

    return handling


class _Pins:
    def __init__(self, node: Node) -> None:
        self._node = node

    async def several(self, request: Request) -> Response:
        query = request.query_params
        keep = _filter(query)
        found = [self._status(seed) for seed in reversed(self._of(_token(request)))]
        found = [pin for pin in found if keep(pin)]
        return JSONResponse({"count": len(found), "results": found[: _limit(query)]})

    async def show(self, request: Request) -> Response:
        return JSONResponse(self._status(self._find(request)))

    async def add(self, request: Request) -> Response:
        return JSONResponse(self._status(self._begin(_token(request), await _pin(request))), 202)

    async def replace(self, request: Request) -> Response:
        old = self._find(request)
        new = self._begin(_token(request), await _pin(request), replacing=old)
        if new.id != old.id:
            end(self._node, old)
        return JSONResponse(self._status(new), 202)

    async def remove(self, request: Request) -> Response:
        end(self._node, self._find(request))
        return Response(status_code=202)

    def _begin(self, token: Token, wanted: Seed, replacing: Seed | None = None) -> Seed:
        before = self._node.seeds.find(wanted.key, wanted.version, token.name)
        if before is None and replacing is None and len(self._of(token)) >= PINS_PER_TOKEN_MAX:
            raise Conflict(f"a token has at most {PINS_PER_TOKEN_MAX} pins", "remove one")
        seed = replace(wanted, owner=token.name, budget=token.budget)
        if before is not None:
            seed = going_on(seed, before)
        if seed == before:
            return seed
        return begin(self._node, seed)

    def _of(self, token: Token) -> list[Seed]:
        return [seed for seed in self._node.seeds.all() if seed.owner == token.name]

    def _find(self, request: Request) -> Seed:
        seed = self._node.seeds.get(request.path_params["requestid"])
        if seed is None or seed.owner != _token(request).name:
            raise NotFound("there is no such pin", "GET /pins lists them")
        return seed

    def _status(self, seed: Seed) -> dict[str, Any]:
        assert self._node.seeding is not None
        progress = self._node.seeding.progress(seed.id)
        progress.look(self._node.repository.blocks)
        info = {"here_bytes": str(progress.here_bytes), "total_bytes": str(progress.total_bytes)}
        return {
            "requestid": seed.id,
            "status": _STATUSES[progress.state],
            "created": _time(seed.added),
            "pin": {
                "cid": seed.link.removeprefix("hyper://"),
                "name": seed.name,
                "origins": list(seed.peers),
                "meta": dict(seed.meta),
            },
            "delegates": list(self._node.swarm.addresses()),
            "info": {**info, "status_details": progress.detail} if progress.detail else info,
        }


def _token(request: Request) -> Token:
    token = request.scope["state"]["token"]
    assert isinstance(token, Token)
    return token


async def _pin(request: Request) -> Seed:
    """What the body asks for. Raises `Refused`."""
    try:
        body = json.loads(await request.body())
    except (ValueError, RecursionError):
        raise Refused("the body is no JSON", 'such as {"cid": "KEY"}') from None
    match body:
        case {"cid": str(cid)}:
            pass
        case _:
            raise Refused("a pin needs a cid", 'such as {"cid": "KEY"}')
    name, origins, meta = body.get("name") or "", body.get("origins") or [], body.get("meta") or {}
    if not _is_text(name, PIN_NAME_CHARS_MAX):
        raise Refused("this is no pin's name", f"text of at most {PIN_NAME_CHARS_MAX} characters")
    if not isinstance(origins, list) or len(origins) > PIN_ORIGINS_MAX:
        raise Refused("these are no origins", f"a list of at most {PIN_ORIGINS_MAX} multiaddrs")
    if (
        not isinstance(meta, dict)
        or len(meta) > PIN_META_MAX
        or not all(_is_text(text, PIN_META_CHARS_MAX) for text in (*meta, *meta.values()))
    ):
        raise Refused("this is no meta", f"at most {PIN_META_MAX} texts of at most {PIN_META_CHARS_MAX} characters")
    link: Link = parse_link(cid)
    peers = tuple(parse_address(str(peer)).text for peer in (*origins, *link.peers))
    return Seed(id=new_seed_id(), key=link.key, version=link.version, peers=peers, name=name, meta=meta)


def _is_text(value: object, characters: int) -> TypeGuard[str]:
    """JSON can spell surrogates alone, which are no text."""
    return isinstance(value, str) and len(value) <= characters and not any("\ud800" <= one <= "\udfff" for one in value)


def _filter(query: QueryParams) -> Callable[[Mapping[str, Any]], bool]:
    """Which pins a listing shows. Raises `Refused`."""
    links = {_bare(text) for text in query.get("cid", "").split(",") if text}
    statuses = set(query.get("status", "pinned").split(","))
    if not statuses <= set(_STATUSES.values()):
        raise Refused("an unknown status", f"one or some of {', '.join(_STATUSES.values())}")
    name, match = query.get("name"), _MATCHES.get(query.get("match", "exact"))
    if match is None:
        raise Refused("an unknown way to match names", f"one of {', '.join(_MATCHES)}")
    before, after = _moment(query.get("before")), _moment(query.get("after"))
    try:
        meta = json.loads(query.get("meta", "{}"))
        is_sound = isinstance(meta, dict)
    except (ValueError, RecursionError):
        is_sound = False
    if not is_sound:
        raise Refused("meta is no JSON object", 'such as {"app": "web"}')

    def keep(pin: Mapping[str, Any]) -> bool:
        created = datetime.fromisoformat(pin["created"])
        return (
            pin["status"] in statuses
            and (not links or pin["pin"]["cid"] in links)
            and (name is None or match(pin["pin"]["name"], name))
            and (before is None or created < before)
            and (after is None or created > after)
            and all(pin["pin"]["meta"].get(word) == text for word, text in meta.items())
        )

    return keep


def _bare(text: str) -> str:
    return parse_link(text).text.partition("?")[0].removeprefix("hyper://")


def _moment(text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise Refused("this is no time", "such as 2026-07-01T12:00:00Z") from None
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)


def _limit(query: QueryParams) -> int:
    text = query.get("limit", str(PINS_LISTED))
    if not (text.isascii() and text.isdecimal()) or not 1 <= int(text[:9]) <= PINS_LISTED_MAX:
        raise Refused("this is no limit", f"a number from 1 to {PINS_LISTED_MAX}")
    return int(text)


def _time(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
