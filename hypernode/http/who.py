"""Whose token a request carries: Bearer, or the password of Basic, which registries' clients send."""

from __future__ import annotations

import base64
import binascii

from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send

from hypernode.http.server import Application
from hypernode.tokens import Right, Token, TokenBook


def asking_for_tokens(app: Application, tokens: TokenBook, right: Right) -> Application:
    """`app` for those who have a token for this; it finds it in the scope's state, as `token`."""

    async def asking(scope: Scope, receive: Receive, send: Send) -> None:
        token = find_token(scope, tokens, right)
        if token is None:
            words = {"reason": "UNAUTHORIZED", "details": "a token is needed: `hypernode token add NAME` makes one"}
            answer = JSONResponse({"error": words}, 401, headers={"WWW-Authenticate": 'Basic realm="hypernode"'})
            await answer(scope, receive, send)
            return
        await app({**scope, "state": {**scope.get("state", {}), "token": token}}, receive, send)

    return asking


def find_token(scope: Scope, tokens: TokenBook, right: Right) -> Token | None:
    header = dict(scope["headers"]).get(b"authorization", b"")
    kind, _, given = header.strip().partition(b" ")
    if kind.lower() == b"basic":
        try:
            given = base64.b64decode(given.strip(), validate=True).partition(b":")[2]
        except binascii.Error:
            return None
    elif kind.lower() != b"bearer":
        return None
    return tokens.find(given.strip().decode("utf-8", "replace"), right)
