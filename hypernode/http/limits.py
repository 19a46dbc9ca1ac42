"""Bounds and deadlines of the HTTP interfaces, each with its unit and reason."""

from __future__ import annotations

from typing import Final

CONNECTIONS_MAX: Final = 64
"""At a time and site. One more takes the place of that which waited longest for a request; if none does, it waits."""
BACKLOG: Final = 64

HEAD_BYTES_MAX: Final = 16384
"""Request line and headers, as far as they do not come in one piece (`PIECE_BYTES`)."""
BODY_BYTES_MAX: Final = 1 << 20
"""As the API's longest line: a request has no more to say over HTTP than over the socket."""
REQUESTS_MAX: Final = 1000
"""Over one connection, which is closed then: nobody keeps a place for ever."""

TLS_SECONDS: Final = 10.0
HEAD_SECONDS: Final = 10.0
"""From connecting to the whole head, and from its first byte on a connection that is used again."""
IDLE_SECONDS: Final = 30.0
"""Between two requests."""
BODY_SECONDS: Final = 30.0
SEND_SECONDS: Final = 30.0
"""For each piece of an answer: who reads nothing for so long is let go."""
PIECE_BYTES: Final = 65536

LINGER_SECONDS: Final = 2.0
LINGER_BYTES_MAX: Final = 4 << 20
"""What is still read of a client that was refused while it sends, so that it gets to read why."""

TOKEN_BYTES: Final = 32
TOKEN_CHARS_MIN: Final = 16
TOKEN_CHARS_MAX: Final = 256

ANSWER_BYTES_MAX: Final = 16 << 20
"""Of one JSON answer with all its events; longer ones are for those who ask for JSON lines."""

METRIC_SEEDS_MAX: Final = 100
"""That have metrics of their own; all are counted."""

SSE_BEGIN_SECONDS: Final = 0.5
"""How long an answer's status waits for what the node says first."""
SSE_KEEPALIVE_SECONDS: Final = 15.0
"""Between comments, when nothing else is to be said: proxies forget silent connections after a minute or so."""
SSE_WAITING_MAX: Final = 1024
"""Events that wait for one reader."""

STREAM_GROUP_BYTES: Final = 4 << 20
STREAM_GROUP_PIECES: Final = 4096
"""What is fetched ahead of what is being sent: so much, and the next so much."""
STREAM_PIECE_BYTES: Final = 256 << 10
STREAM_BUFFER_BYTES: Final = 64 << 10
"""Small pieces are sent together."""

GATEWAY_IMAGES_MAX: Final = 4
"""Decoded manifests kept for the next request."""
GATEWAY_OPENING_MAX: Final = 2
"""Manifests decoded at a time: one of a large image takes a hundred megabytes while that lasts."""
GATEWAY_STRANGERS_MAX: Final = 64
"""Images that a gateway was asked for and nobody had, since it was started: each leaves a record, and is looked for
on."""
LISTING_BATCH: Final = 256

LAYERS_WAITING_MAX: Final = 16
"""Layers whose digest is worked out, or is to be: one after the other, each may mean fetching an image."""
REGISTRY_TAGS_MAX: Final = 1000
"""In one answer; the rest is asked for with `last`."""

PIN_NAME_CHARS_MAX: Final = 255
PIN_ORIGINS_MAX: Final = 20
PIN_META_MAX: Final = 16
PIN_META_CHARS_MAX: Final = 256
PINS_LISTED: Final = 10
PINS_LISTED_MAX: Final = 1000
"""As the specification has them; it leaves the bounds of `meta` to services."""
