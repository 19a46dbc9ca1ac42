"""Every bound of the swarm, with its unit and reason. Numbers W… and N… are rows of the fault list these came from."""

from __future__ import annotations

from typing import Final

from hyperlog.limits import BLOCK_BYTES_MAX

# --- frames ---------------------------------------------------------------------------------------------------

BLOCK_BODY_BYTES_MAX: Final = 4 + BLOCK_BYTES_MAX

UNKNOWN_BODY_BYTES_MAX: Final = 64 << 10
"""Frames of types to come are skipped, not refused, up to this size (W14)."""

# --- windows --------------------------------------------------------------------------------------------------

REQUESTS_IN_FLIGHT_MAX: Final = 128
"""Requests one session may have unanswered; more are answered "busy" (W18, W23)."""

REQUESTS_RESERVED: Final = 16
"""Of those, what only urgent requests may use."""

REQUEST_BYTES_IN_FLIGHT_MAX: Final = 4 << 20
"""Of one peer and lane."""

WINDOW_BYTES_FIRST: Final = 256 << 10
WINDOW_BYTES_MIN: Final = 128 << 10
"""What a peer may owe that is not urgent: before anything was measured, and at least."""

QUEUE_SECONDS: Final = 0.15
"""How much of what is not urgent may be under way from a peer beyond what its latency needs: a round of announcements
and of scheduling at both ends fits in."""

TABLES_PER_SESSION_MAX: Final = 16
TABLE_BLOCKS_MAX: Final = 1 << 20
TABLES_MAX: Final = 64
TABLE_BLOCKS_ALL_MAX: Final = 1 << 20
"""Block tables known at a time, and the blocks in all of them: 64 GiB of images, some 200 MB of memory."""

SPAN_BYTES_MAX: Final = 8 << 10
GAINED_MAX: Final = 2048
"""Bits and numbers in one announcement."""

GRANTS_MAX: Final = 4096
BURST_BYTES_MIN: Final = 256 << 10
"""What a rate limit lets through at once: as much as the largest block."""

ASKED_PEERS_MAX: Final = 4
"""One block is under way from at most so many peers at a time; more than one only when the others stall."""

CONTROL_BYTES_MAX: Final = 1 << 20
"""Control bytes waiting for a peer that does not read (W22)."""

HELD_BYTES_MAX: Final = 64 << 20
"""What all sessions together keep for their peers; beyond it the one that keeps most ends."""

EXCHANGE_UNREAD_MAX: Final = 8192
"""Frames about entries from a peer that reads none of ours meanwhile (W22)."""

BLOCK_TURNS_MAX: Final = 4
"""Blocks go before entries, but not more often than this in a row: an exchange must not starve."""

WRITE_CHUNK_BYTES: Final = 128 << 10
PROMPT_SECONDS: Final = 0.002
PROMPT_CHUNK_BYTES_MAX: Final = 512 << 10
"""Frames handed to a stream at once: big enough to be cheap, small enough not to hold up control frames. Twice as many,
up to the last, each time that the stream took them in so short a time."""

READ_AHEAD_BYTES: Final = 1 << 20
"""Blocks read at once for one session: a turn of a thread costs as much as sending a block."""

READ_CHUNK_BYTES: Final = 1 << 20

SLICE_BYTES_MIN: Final = 16 << 10
SLICE_SECONDS: Final = 0.005
"""How much of what came is looked at before others get their turn: doubled while it takes less than this, halved when
it takes four times as long. Small frames cost up to a microsecond a byte, blocks a thousandth of that (measured)."""

LOOK_EVENTS: Final = 8
"""So often is looked, in a slice, whether it takes too long."""

IDLE_SHARE: Final = 0.1
IDLE_SHARE_ALL: Final = 0.2
IDLE_BURST_SECONDS: Final = 0.1
IDLE_WAIT_SECONDS_MAX: Final = 5.0
"""Processor time that one peer, and all together, may take for nothing, in parts of one processor; what a peer may take
at once; and how long it is left unread at a time (W10)."""

IDLE_BYTE_SECONDS: Final = 8e-9
BLOCK_WORTH_SECONDS: Final = 2e-3
ENTRY_WORTH_SECONDS: Final = 1e-3
SERVED_WORTH_SECONDS: Final = 1e-3
"""What a byte costs to receive and decrypt, and what a block or a new entry from a peer, and a block that it asked for,
are worth to us: several times what they cost (measured)."""
UNREQUESTED_MAX: Final = 3
"""Answers nobody asked for before the sender is dropped (W19)."""

# --- peers and sessions ---------------------------------------------------------------------------------------

CONNECTIONS_MAX: Final = 1024
CONNECTIONS_PER_PEER_MAX: Final = 4
CONNECTIONS_PER_ADDRESS_MAX: Final = 64
"""Established inbound connections of one IP address; many honest peers may sit behind one NAT."""

UPGRADES_MAX: Final = 256
UPGRADES_PER_ADDRESS_MAX: Final = 8
"""Inbound connections that have not finished their handshake, in all and of one IP address (W1, N6)."""

HANDSHAKES_PER_ADDRESS_BURST: Final = 128.0
HANDSHAKES_PER_ADDRESS_PER_SECOND: Final = 20.0
HANDSHAKE_FAILED_COST: Final = 4.0
"""Connections that one IP address may start at once and per second; one whose handshake fails counts for so many more.
A handshake is 10 to 20 ms of processor time (measured), so this is a third of a core for one address."""

ADDRESSES_REMEMBERED_MAX: Final = 4096

IDLE_CONNECTION_SECONDS: Final = 30.0
"""An inbound connection without any stream is closed after this or up to twice as long."""

DESCRIPTORS_RESERVED: Final = 256
"""Descriptors that connections leave to stores, mounts and clients, where the process may have few."""

NEGOTIATION_BYTES_MAX: Final = 1024
NEGOTIATION_ROUNDS_MAX: Final = 16
"""One message of multistream-select, and how many one negotiation may take (W11)."""

ECHO_SECONDS: Final = 30.0
ECHO_PAUSE_SECONDS: Final = 0.05
"""libp2p's ping protocol: a stream on which no ping comes for this long is closed; the pause between two answers."""

STREAMS_PER_PEER_MAX: Final = 64
"""Inbound streams of one peer; further ones are reset (W8)."""

OPENED_STREAMS_MAX: Final = 256
"""Streams that we open on one connection."""

WINDOW_BYTES_MAX: Final = 4 << 20
"""Flow-control window of one stream, once its reader has shown that it reads: 40 MB/s at 100 ms."""

WINDOW_BYTES_PER_CONNECTION_MAX: Final = 8 << 20
WINDOW_BYTES_ALL_MAX: Final = 128 << 20
"""What windows add beyond the 256 KiB that a stream starts with, on one connection and on all."""

UNREAD_BYTES_ALL_MAX: Final = 64 << 20
"""Unread bytes of all connections; sessions always read, so only somebody hostile comes near."""

UNSENT_BYTES_HIGH: Final = 256 << 10
"""Encrypted bytes of one connection that the kernel did not take; writers wait from here on (W22)."""

UNSENT_BYTES_MAX: Final = 768 << 10
"""Control frames may add to that up to here; a peer that reads none of them is disconnected."""

FLOOD_FRAMES_MAX: Final = 20_000
FLOOD_FRAMES_PER_SECOND: Final = 4_000
STREAM_FRAMES_COST: Final = 40
"""Frames of a connection that carry next to nothing: so many at once, so many a second; a new stream counts as 40,
so that 500 streams can be opened at once and 100 a second (W8, W10)."""

HANDSHAKES_MAX: Final = 256
"""Sessions in their handshake; beyond it the oldest of whoever has most of them ends."""

SESSIONS_MAX: Final = 4096
LOG_ADDRESSES_MAX: Final = 64
NEIGHBOURS_MAX: Final = 256
PEER_ADDRESSES_MAX: Final = 8
BANS_MAX: Final = 4096
BANS_KEPT_MAX: Final = 512
BANS_KEPT_BYTES_MAX: Final = 64 << 10
"""Bans that are kept over a restart."""
PEER_RECORDS_MAX: Final = 1024
ADDRESS_CHARACTERS_MAX: Final = 512
DIALS_MAX: Final = 8
"""Dials under way at a time: 64 in parallel made handshakes of a loaded machine time out (measured)."""

# --- seconds --------------------------------------------------------------------------------------------------

UPGRADE_SECONDS: Final = 5.0
"""From TCP accept to a secured, multiplexed connection, in all (W1, W2)."""

STREAM_SECONDS: Final = 5.0
"""From a new stream to its protocol being agreed (W9)."""

HANDSHAKE_SECONDS: Final = 5.0
WRITE_SECONDS: Final = 30.0
CLOSE_SECONDS: Final = 1.0
BAN_SECONDS: Final = 600.0
BAN_SECONDS_MAX: Final = 86_400.0
"""The first ban of a peer, and the longest; each is four times as long as the one before."""

FAULT_HALF_LIFE_SECONDS: Final = 600.0
LAPSES_MAX: Final = 10
FORGIVEN_SECONDS: Final = 7 * 86_400.0
BANS_SAVE_SECONDS: Final = 10.0
"""A ban is on disk after this, or when the node ends."""

GIVEN_SAVE_SECONDS: Final = 30.0
"""So is what was given of each log, all of them in one write."""

TICK_SECONDS: Final = 0.25
STALL_SECONDS: Final = 1.5
"""A peer that owes blocks and has been silent this long is asked nothing more, and others are asked instead."""

LATE_SECONDS: Final = 5.0
"""A single request this old is asked elsewhere too, even if its peer delivers other things."""

DEAD_SECONDS: Final = 10.0
"""A peer that owes blocks and has been silent this long is disconnected."""

ENTRIES_OWED_SECONDS: Final = 30.0
"""A peer that owes entries and said nothing about the log for this long is disconnected."""

PING_SECONDS: Final = 30.0
SILENT_SECONDS: Final = 75.0
"""An idle session is pinged, and closed when nothing at all came for this long. Hosts that vanished are found sooner,
by the kernel (`PROBE_SECONDS`), which costs nothing: pinging a thousand idle peers every 10 s takes 3 % of a core."""

LATE_BULK_SECONDS: Final = 15.0
"""The same for what is not urgent, or four times what was expected when it was asked for."""

HEDGE_FIRST_SECONDS: Final = 0.1
HEDGE_SECONDS_MIN: Final = 0.02
"""When a blocking request is asked from a second peer too: of a peer that was not measured yet, and at the earliest."""

ANNOUNCE_SECONDS: Final = 0.1
"""Blocks that came are announced together, this often."""
KEEP_SECONDS: Final = 10.0
"""How long after a block came it is still looked for in the store: its reader puts it there, in its own time."""
KEEP_LOOKED_AT_MAX: Final = 1024
"""So many of those, the newest, are looked for again each time: on a full disk none is ever kept."""

GRANT_SECONDS: Final = 30.0
"""A seeder in a crowd sends a block again to somebody else after this: the first may have vanished."""

CROWD_SECONDS: Final = 1.0
"""A seeder that nobody asked for anything new this long sends each block once more, if it is wanted."""

SOON_RETRY_SECONDS: Final = 2.0
SOON_SECONDS_MAX: Final = 5.0
SOON_HELD_SECONDS_MAX: Final = 30.0
"""A seeder that said "soon" is asked again after the first, and told to send it after the second, or the third if
another peer has said meanwhile that it holds the block."""

LISTEN_SECONDS: Final = 0.5
"""What can wait is not asked of one of several peers sooner than this, unless it has said what it holds."""

BURST_SECONDS: Final = 0.1
"""A rate limit holds over any stretch of time that is long against this."""

LIMITED_PING_SECONDS: Final = 1.0
"""A node that may not send more for now says so often that it is still there."""

HOPELESS_SECONDS: Final = 3.0
"""When all known peers of a log were dropped for lying, others have this long to be found."""

ABSENT_RETRY_SECONDS: Final = 1.0
ABSENT_RETRY_SECONDS_MAX: Final = 8.0
"""A peer that did not hold a block is asked for it again after this, doubling: it may be fetching itself."""

MUTE_SECONDS: Final = 10.0
"""A peer that said that it serves nothing is not asked for so long: orders to serve come and go."""

RETRY_FIRST_SECONDS: Final = 0.2
RETRY_WANTED_SECONDS_MAX: Final = 2.0
RETRY_IDLE_SECONDS_MAX: Final = 30.0
"""Pauses between dials of a peer: short while somebody waits for the log, longer otherwise."""

KEEP_ALIVE_SECONDS: Final = 30.0
"""A connection that was silent this long is pinged, and closed when it is silent twice as long."""

PROBE_SECONDS: Final = 10
PROBE_AGAIN_SECONDS: Final = 5
PROBES_MAX: Final = 3
"""TCP keep-alive: after so long without a packet the kernel probes, and so often again, before it gives the peer up."""

AGREE_SECONDS: Final = 2.0
"""After the first peer agreed on a log's state, how long the others may still bring news."""

EMPTY_SECONDS: Final = 5.0
"""How long a log of which nobody had anything is waited for, once a peer has said that it has nothing either."""

DISK_THREADS_MAX: Final = 2
SERVE_BATCH_MAX: Final = 16
