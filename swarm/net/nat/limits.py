"""Every bound of getting through NATs, with its unit and reason."""

from __future__ import annotations

from typing import Final

MESSAGE_BYTES_MAX: Final = 4096
"""One message of any of these protocols, as their specifications have it."""

MESSAGE_SECONDS: Final = 5.0
"""For one exchange of them."""

# --- circuits ---------------------------------------------------------------------------------------------------

PIECE_BYTES: Final = 32 << 10
"""Carried at once: what one circuit holds of a relay's memory, each way, beside the windows of its streams."""

# --- what a node behind a NAT does ----------------------------------------------------------------------------

RELAYS_WANTED: Final = 2
"""Reservations held at a time: one relay may go."""

CIRCUITS_ACCEPTED_MAX: Final = 32
"""Relayed connections that others opened to us; each takes two descriptors."""

ASKED_PEERS_MAX: Final = 3
"""Peers asked to dial us back in one look at how reachable we are."""

WITNESS_SECONDS: Final = 900.0
"""After this a peer is asked again: networks change."""

LOOK_FIRST_SECONDS: Final = 0.5
"""After a connection was made, before anybody is asked: several are often made together."""

LOOK_SECONDS: Final = 120.0
"""Between looks when nothing happens."""

RETURN_SECONDS: Final = 1.0
"""Before a relay that went away is tried again, doubling up to `LOOK_SECONDS`."""

# --- dialling back --------------------------------------------------------------------------------------------

DIAL_BACK_ADDRESSES_MAX: Final = 4
DIAL_BACK_SECONDS: Final = 3.0
DIAL_BACKS_MAX: Final = 4
DIAL_BACK_PAUSE_SECONDS: Final = 5.0
"""Between two dials for one peer: we dial no address but the one it was seen at, and not often."""

# --- hole punching --------------------------------------------------------------------------------------------

PUNCH_ROUNDS_MAX: Final = 3
PUNCH_SECONDS: Final = 4.0
"""For one round of simultaneous connects."""

PUNCH_AGAIN_SECONDS: Final = 0.1
"""Between connects of one round that were refused: a packet was early."""

PUNCH_TRIES_MAX: Final = 10
"""Connects to one address in one round: what somebody can make us send to a third party stays a trickle."""

PUNCH_DELAY_SECONDS_MAX: Final = 2.0
MOVE_SECONDS: Final = 1.0
"""From a direct connection to the end of the relayed one: sessions begin anew on it meanwhile."""

PUNCH_ADDRESSES_MAX: Final = 8

# --- port mappings --------------------------------------------------------------------------------------------

GATEWAY_MILLISECONDS: Final = 500
"""How long to listen for answers to a search (SSDP); there are four kinds of search, one after the other."""

MAP_SECONDS: Final = 10.0
"""For finding a gateway and mapping a port, in all; and for unmapping it at the end half of it."""

MAP_FIRST_SECONDS: Final = 2.0
"""After the start, before a router is looked for: who only fetches something quickly needs none."""

LEASE_SECONDS: Final = 3600
"""A mapping ends by itself after this, should we be killed."""
