"""Every bound of finding peers, with its unit and reason. Numbers N… are rows of the fault list these came from."""

from __future__ import annotations

from typing import Final

# --- one exchange of /hypernode/find/1 ------------------------------------------------------------------------

ANNOUNCED_KEYS_MAX: Final = 64
"""Discovery keys in one announcement: 1 000 logs are 16 messages."""

PORTS_MAX: Final = 2
RELAYS_MAX: Final = 2
"""What one peer may be reached by: its own TCP ports, addresses behind relays."""

PROVIDERS_TOLD_MAX: Final = 20
CLOSER_TOLD_MAX: Final = 16
PEER_ADDRESSES_TOLD_MAX: Final = 4
ANNOUNCE_BODY_BYTES_MAX: Final = 4096
FOUND_BODY_BYTES_MAX: Final = 32 << 10
"""36 peers with four addresses of 200 characters; checked before any of it is kept."""

ASK_SECONDS: Final = 4.0
"""For one exchange with a known node, dial included."""

ASKING_MAX: Final = 8
"""Exchanges under way at a time."""

SERVE_SECONDS: Final = 10.0
"""A stream on which nothing is asked for so long is closed."""

SERVED_STREAMS_MAX: Final = 128
"""Streams on which we are asked; further ones are closed at once."""

# --- what a node keeps for others -----------------------------------------------------------------------------

RECORD_SECONDS_MAX: Final = 7200
RECORDS_MAX: Final = 16_384
RECORDS_PER_KEY_MAX: Final = 256
RECORDS_PER_PEER_MAX: Final = 2048
"""About 1 KB each, so 16 MB when full. When a table is full, the part of the internet that has most of it loses
its oldest: who floods from one network displaces himself."""

PACE_BURST: Final = 2048.0
PACE_PER_SECOND: Final = 64.0
QUESTION_COST: Final = 4.0
"""What one network (a /24 of IPv4, a /56 of IPv6) may ask of us: a key announced costs 1, a question 4. By network,
because new peer ids cost nothing. Who needs more is answered "busy"."""

PACED_GROUPS_MAX: Final = 4096

# --- Kademlia -------------------------------------------------------------------------------------------------

BUCKET_SIZE: Final = 16
"""k: nodes in a bucket, and nodes that hold one provider record. With four of five nodes lying, one of 16 is honest in
97 cases of 100."""

LOOKUP_PARALLEL: Final = 4
LOOKUP_ASKED_MAX: Final = 64
"""Nodes asked in one lookup, whatever they answer."""

LOOKUP_SECONDS: Final = 30.0

NODE_FAILURES_MAX: Final = 2
NODE_GROUP_MAX: Final = 4
"""Nodes of one network in one bucket, of global addresses: many ids at one place do not fill a table."""

REFRESH_SECONDS: Final = 300.0

# --- announcing and searching ---------------------------------------------------------------------------------

KNOWN_NODES_MAX: Final = 16
"""Nodes that keep records for us beside the DHT: configured ones, those of links, remembered ones."""

RENDEZVOUS_TTL_SECONDS: Final = 600
RENDEZVOUS_EVERY_SECONDS: Final = 240.0
PROVIDE_TTL_SECONDS: Final = 7200
PROVIDE_EVERY_SECONDS: Final = 2700.0
"""Renewed well before they expire, so that one failed round loses nothing."""

PROVIDE_PAUSE_SECONDS: Final = 1.0
"""Between the lookups of two keys: with a thousand logs, 17 minutes for all."""

NODE_RETRY_SECONDS: Final = 5.0
NODE_RETRY_SECONDS_MAX: Final = 300.0
"""A known node that failed is left alone for so long, doubling; not while somebody waits for a log."""

LOOK_SECONDS: Final = 1.0
"""How soon it is seen that there is something new to announce."""

SEARCH_SECONDS: Final = 10.0
"""For one search, whoever does not answer."""

SEARCH_FIRST_SECONDS: Final = 1.0
SEARCH_WANTED_SECONDS_MAX: Final = 10.0
SEARCH_IDLE_SECONDS: Final = 600.0
"""Between two searches for one log: doubling from the first to the second while somebody waits, else the third."""

# --- peers found, not yet known -------------------------------------------------------------------------------

PEERS_WANTED: Final = 12
PEERS_WANTED_IDLE: Final = 4
"""Live sessions of one log up to which peers are looked for: while somebody waits for it, and otherwise."""

CANDIDATES_MAX: Final = 256
CANDIDATES_PER_TELLER_MAX: Final = 32
"""Addresses of one log, in all and of one who named them."""

TRIALS_MAX: Final = 8
"""Dials of such addresses under way at a time, for all logs; they take no slot from addresses that were given."""

TRIALS_PER_LOG_MAX: Final = 6
TRIAL_FAILURES_MAX: Final = 3
TRIAL_RETRY_SECONDS: Final = 15.0
TRIAL_RETRY_SECONDS_MAX: Final = 600.0

TRIAL_WANTED_SECONDS: Final = 2.0
"""Between two dials of an address that worked once, while somebody waits for the log and it has no peer."""

HOST_FAILURES_MAX: Final = 8
HOST_FAILURES_SECONDS: Final = 60.0
"""So many failed dials of one IP address in so long; then it is left alone for as long: nobody can be made a target."""

# --- peer exchange --------------------------------------------------------------------------------------------

EXCHANGED_PEERS_MAX: Final = 16
PEERS_BODY_BYTES_MAX: Final = 16 << 10
EXCHANGE_EVERY_SECONDS: Final = 10.0
EXCHANGE_LOOK_SECONDS: Final = 1.0
EXCHANGE_BURST: Final = 4
"""Frames that may come at once, then one each half `EXCHANGE_EVERY_SECONDS`; more are not looked at."""
