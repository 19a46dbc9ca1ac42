"""Every bound of remote mounts, with its unit and reason."""

from __future__ import annotations

from typing import Final

CONNECT_SECONDS: Final = 20.0
"""From dialling to the store's greeting: ssh may ask a slow name server and a slow disk first."""

HANDSHAKE_SECONDS: Final = 5.0
"""Who connects by TCP has this long to prove that it knows the token."""

HELLO_SECONDS: Final = 20.0
"""And then this long to say which image it wants, and which version of it."""

SEND_SECONDS: Final = 60.0
"""An end that takes nothing for so long is let go."""

PING_SECONDS: Final = 3.0
SILENCE_SECONDS: Final = 10.0
"""While something is asked for: after the first without a byte the store is asked whether it is there, after the second
the connection is given up and made anew, well within a read's deadline of 30 s."""

RETRY_SECONDS_MIN: Final = 0.1
RETRY_SECONDS_MAX: Final = 5.0
"""Between attempts to connect again, doubling, and only while somebody waits for a block."""

IN_FLIGHT_MAX: Final = 128
"""Blocks asked for and not answered: 8 MiB at each end, and more than a wire of 1 Gbit/s and 50 ms holds."""

WAITING_MAX: Final = 4096
"""Blocks that readers wait for; the kernel's own bounds on requests come long before."""

MEMORY_BYTES: Final = 64 << 20
"""Stored blocks that a remote mount keeps; everything else it holds is the kernel's page cache."""

READ_AHEAD_KIB: Final = 1024
"""Of the kernel, in files that are read in order: a round trip for every 128 KiB makes 2.5 MB/s of 50 ms."""

CLIENTS_MAX: Final = 64
"""Connections that `serve-mounts --listen` has at a time, proven or not."""

NAME_BYTES_MAX: Final = 512
MESSAGE_BYTES_MAX: Final = 1024
"""An image's name or link; why something is refused."""

TOKEN_CHARACTERS_MIN: Final = 22
TOKEN_CHARACTERS_MAX: Final = 1024
"""22 characters hold 128 bits. A shorter token could be guessed from a recorded handshake."""

SAID_BYTES_MAX: Final = 4096
"""Of what a command says on standard error, the end."""
