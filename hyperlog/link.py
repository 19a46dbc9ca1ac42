"""`hyper://KEY[@VERSION][?peer=MULTIADDR…]`: what a person hands to another.

The key is both address and read capability. A version is a number (`3` or `v3`), a tag, or the first characters of an
entry id; what it means is decided where versions are known. Peers are hints of where to ask first, never a trust
decision: everything is verified against the key.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote, unquote

from hyperlog.errors import Refused
from hyperlog.ids import LogKey, from_text, to_text
from hyperlog.limits import LINK_PEERS_MAX, LINK_TEXT_MAX

SCHEME: Final = "hyper://"
_VERSION: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,127}")
_HINT: Final = "a link looks like hyper://KEY, with 52 characters as KEY"


@dataclass(frozen=True, slots=True)
class Link:
    """A parsed link; `text` is its canonical spelling."""

    key: LogKey
    version: str | None = None
    peers: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        version = f"@{self.version}" if self.version else ""
        peers = "&".join("peer=" + quote(peer, safe="/:.-_[]") for peer in self.peers)
        return f"{SCHEME}{to_text(self.key)}{version}{'?' + peers if peers else ''}"


def parse_link(text: str) -> Link:
    """Parse a link (a bare KEY is taken as one). Raises `Refused` with what is wrong and where."""
    if len(text) > LINK_TEXT_MAX:
        raise Refused(f"the link has {len(text)} characters; at most {LINK_TEXT_MAX} are allowed", _HINT)
    body = text.strip()
    if "://" in body:
        if not body.lower().startswith(SCHEME):
            raise Refused(f"not a hyper:// link: {printable(body)}", _HINT)
        body = body[len(SCHEME) :]
    body, _, query = body.partition("?")
    body, at, version = body.rstrip("/").partition("@")
    try:
        key = LogKey(from_text(body))
    except Refused as error:
        raise Refused(f"malformed link {printable(text)}: {error.message}", error.hint or _HINT) from None
    if at and not _VERSION.fullmatch(version):
        raise Refused(f"malformed version in link: {printable(version)}", "a version is a number, a tag or an entry id")
    return Link(key, version or None, _parse_peers(query))


def printable(text: str, characters_max: int = 80) -> str:
    """`text` quoted for a message: no control characters, cut when long."""
    return ascii(text if len(text) <= characters_max else text[:characters_max] + "…")


def _parse_peers(query: str) -> tuple[str, ...]:
    peers: list[str] = []
    for part in filter(None, query.split("&")):
        name, _, value = part.partition("=")
        if name != "peer":
            raise Refused(f"unknown option in link: {printable(name)}", "only ?peer=MULTIADDR is known")
        peer = unquote(value)
        if not peer.startswith("/") or not peer.isprintable():
            raise Refused(
                f"not a multiaddr in link: {printable(peer)}", "e.g. ?peer=/ip4/192.0.2.1/tcp/4001/p2p/PEERID"
            )
        if peer not in peers:
            peers.append(peer)
    if len(peers) > LINK_PEERS_MAX:
        raise Refused(
            f"the link names {len(peers)} peers; at most {LINK_PEERS_MAX} are allowed", "drop some ?peer= parts"
        )
    return tuple(peers)
