"""Who may ask a site: decided from the head of a request alone, before anything is read or looked up.

- *Token.* Sent as `Authorization: Bearer`, by nothing on its own: there are no cookies, so no other page can make a
  browser use it (no CSRF).
- *Host.* A site without TLS answers only to the names of this machine's loopback. A page of evil.example whose name now
  resolves to 127.0.0.1 sends its own name, and gets nothing (DNS rebinding). With TLS the certificate does that.
- *Origin.* What a browser sends on behalf of another page is refused, whatever it has.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from typing import Final

from hyperlog.errors import Refused
from hypernode.api.codec import error_fields
from hypernode.http.server import Application, Message, Receive, Send

_LOOPBACK_NAMES: Final = frozenset({"localhost", "127.0.0.1", "[::1]"})
_HEADERS: Final = (
    (
        b"content-security-policy",
        (
            b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
            b"base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        ),
    ),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cache-control", b"no-store"),
)
_NAMES: Final = frozenset(name for name, _ in _HEADERS)


def judge(
    headers: Mapping[bytes, bytes], scheme: str, path: str, token: str | None, open_paths: frozenset[str]
) -> tuple[int, str] | None:
    """Status and words of the refusal, or None. Without `token`, nobody needs one."""
    host = headers.get(b"host", b"").decode("latin-1").lower()
    if scheme == "http" and _name(host) not in _LOOPBACK_NAMES:
        return 421, "this site answers to localhost, 127.0.0.1 and [::1] only"
    origin = headers.get(b"origin")
    if origin is not None and origin.decode("latin-1").lower() != f"{scheme}://{host}":
        return 403, "a page of another origin asks"
    if headers.get(b"sec-fetch-site", b"none") not in (b"none", b"same-origin") and path not in open_paths:
        return 403, "a page of another site asks"
    if token is None or path in open_paths:
        return None
    kind, _, given = headers.get(b"authorization", b"").partition(b" ")
    if kind.lower() != b"bearer":
        return 401, "a token is needed: Authorization: Bearer TOKEN"
    if not secrets.compare_digest(given.strip(), token.encode()):
        return 401, "not the token of this site"
    return None


def _name(host: str) -> str:
    """Without the port."""
    if host.startswith("["):
        return host.partition("]")[0] + "]"
    return host.partition(":")[0]


def guarded(app: Application, token: str | None, open_paths: frozenset[str] = frozenset()) -> Application:
    """`app` for those who may ask. Its answers tell browsers to run, frame, keep and guess nothing."""

    async def guarding(scope: Message, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                own = {bytes(name).lower() for name, _ in message.get("headers", ())} & _NAMES
                more = [(name, value) for name, value in _HEADERS if name not in own]
                message = {**message, "headers": [*message.get("headers", ()), *more]}
            await send(message)

        refusal = judge(dict(scope["headers"]), scope["scheme"], scope["path"], token, open_paths)
        if refusal is None:
            await app(scope, receive, send_with_headers)
        else:
            await _refuse(*refusal, send_with_headers)

    return guarding


async def _refuse(status: int, words: str, send: Send) -> None:
    body = json.dumps({"error": error_fields(Refused(words))}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if status == 401:
        headers.append((b"www-authenticate", b'Bearer realm="hypernode"'))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
