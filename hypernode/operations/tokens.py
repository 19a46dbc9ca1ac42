"""Tokens of the gateway and the pinning service: made, listed, revoked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import trio

from hyperlog.errors import Refused
from hypernode.api.token_requests import TokenAdd, TokenRequest, TokenRevoke, Tokens
from hypernode.node import Node
from hypernode.tokens import Right, Token


async def operate_on_tokens(node: Node, request: TokenRequest) -> Mapping[str, Any]:
    """Carry out `request`."""
    await trio.lowlevel.checkpoint()
    match request:
        case TokenAdd():
            if request.right not in set(Right):
                raise Refused("a token cannot be for that", f"choose {' or '.join(Right)}")
            text = node.tokens.add(request.name, Right(request.right), request.budget)
            return {"name": request.name, "right": request.right, "token": text}
        case TokenRevoke():
            return {"revoked": [_fields(token) for token in node.tokens.revoke(request.name)]}
        case Tokens():
            return {"tokens": [_fields(token) for token in node.tokens.all()]}


def _fields(token: Token) -> dict[str, Any]:
    return {"name": token.name, "right": token.right.value, "created": token.created, "budget": token.budget}
