"""Bounds and deadlines of the node, each with its unit and reason."""

from __future__ import annotations

from typing import Final

API_LINE_BYTES_MAX: Final = 1 << 20
"""One request or reply; the largest is a status with many peers."""

API_CONNECTIONS_MAX: Final = 128
API_REQUEST_SECONDS: Final = 10.0
"""From connecting to the whole request line: who connects and says nothing is let go."""

EVENTS_QUEUED_MAX: Final = 64
"""Progress events waiting for a slow client; more are merged away, results never."""

NETWORK_START_SECONDS: Final = 30.0
"""libp2p is imported and listening within this, also on a machine that swaps."""

SYNC_SECONDS: Final = 30.0
"""Looking for anybody who has a log, before the user is told that nobody does."""

MANIFEST_STALL_SECONDS: Final = 30.0
"""Fetching a manifest (1 to 20 MB) may take its time on a slow link, but ends when nothing arrives for so long."""

PATIENCE_SECONDS: Final = 60.0
"""How long a pull or an export waits for one block before it says that nobody delivers."""

READ_DEADLINE_SECONDS: Final = 30.0
"""How long a read of a container may wait for peers before it fails with EIO."""

REPEATED_READ_WITHIN_SECONDS: Final = 1.0
REPEATED_READ_SECONDS: Final = 0.2
"""A read that follows a failed one within the first is tried for the second: enough for a peer that is connected."""

CLOSE_SECONDS: Final = 10.0
"""Unmounting and closing at the end, shielded from cancellation."""

DRAIN_NOTICE_SECONDS: Final = 1.0

ADOPT_SECONDS: Final = 10.0
"""Opening an image of a killed node's container again, from what is here; its reads wait meanwhile."""

OPENED_IMAGES_MAX: Final = 4
"""Decoded manifests kept for the next boot: one of 10 000 files takes some 3 MB."""

IDLE_MOUNT_SECONDS: Final = 60.0
IDLE_MOUNTS_MAX: Final = 4
"""A daemon keeps so many images mounted so long after their last container: the next one finds their pages cached."""

AHEAD_FETCHES: Final = 512
"""Blocks asked for at once that nobody waits for yet: peers are asked in long runs, whose windows are the swarm's."""

WATCH_SECONDS: Final = 10.0
"""After a miss, how long reads that need not wait are watched too, if there is no other."""

COMPLETE_RETRY_SECONDS: Final = 5.0
"""After a completion found nobody who delivers."""

TRACE_SECONDS: Final = 10.0
"""How long `trace` lets a command run that does not end by itself: servers answer long before."""

PRIVATE_TRACES_MAX: Final = 256
PRIVATE_TRACES_BYTES_MAX: Final = 4 << 20
"""In a home: a Python start's takes 5 kB, the largest possible one 115 kB."""

CARRIED_FROM_MAX: Final = 8
"""Other versions of an image in which a boot looks for a trace of its command."""

PUSHED_READS_MAX: Final = 1000
"""Reads to be answered after which a mount that reads through the cache of its blob stops that: then somebody reads
much that no trace named, page by page. A Python start whose trace was pushed makes some ten, one that was not 700."""

PUSHED_LOOK_SECONDS: Final = 0.1
"""Between two looks at how many there were: a thousand take as long."""

TRACED_READ_AHEAD_KIB: Final = 16
READ_AHEAD_KIB: Final = 128
"""Of the kernel, on mounts of images. Where a trace tells what will be read, reading ahead mostly asks for what nobody
touches: a Python start on Debian touches 3.6 % of the image, reads 4.5 % with 16 KiB and 6.6 % with the usual 128 KiB;
with single pages it takes 2.6 times as many reads as with 16 KiB."""

EROFS_CACHE_FILES_MAX: Final = 64
"""Derived file system headers kept, newest first; each is under 1 % of its image."""

TOOL_STALL_SECONDS: Final = 300.0
"""A registry that brings nothing for so long is given up."""

EVENTS_REMEMBERED: Final = 1024
EVENTS_FILE_BYTES_MAX: Final = 2 << 20
"""Of what happened: so many events in memory, and two files of so many bytes (some 10 000 events each)."""

EVENT_ATTRIBUTES_MAX: Final = 64
EVENT_ATTRIBUTE_CHARS_MAX: Final = 1024
SEEDS_MAX: Final = 1000
SEED_VERSIONS_MAX: Final = 100
"""Orders in a home, each a task; and versions that one order keeps: what each takes, block by block, is looked at
together."""

SEEDS_FETCHING_MAX: Final = 4
"""Orders that fetch at a time; the others wait for their turn."""

SEED_RETRY_SECONDS: Final = 5.0
SEED_RETRY_SECONDS_MAX: Final = 120.0
"""After nobody delivered: the first pause, and the longest, each twice the one before. News of the log ends it."""

RATIO_MIN: Final = 0.001
RATIO_MAX: Final = 1000.0
"""Bytes given for each byte that a seed holds; records keep thousandths."""

SEED_REVIEW_SECONDS: Final = 600.0
"""A seed that has all looks again whether that is still so."""

TOKENS_MAX: Final = 1000
PINS_PER_TOKEN_MAX: Final = 100
"""Each is an order of its own (SEEDS_MAX): one member of a team does not take the places of all others."""

SNAPSHOTS_MAX: Final = 256  # of containers with their memory, some 100 MB each
CONTAINERS_MAX: Final = 1024
"""In one home, those that ended included."""

CONTAINER_LOG_BYTES: Final = 10_000_000
CONTAINER_LOG_FILES: Final = 3
CONTAINER_LOG_BYTES_MIN: Final = 128_000
CONTAINER_LOG_BYTES_MAX: Final = 10**12
CONTAINER_LOG_FILES_MAX: Final = 100
"""A container's log: when a file has so many bytes the next begins, and the oldest of so many goes. Unless others are
asked for; a file has room for the longest line as JSON spells it, and who reads a log opens all its files."""

LOG_PIECE_BYTES: Final = 256 << 10
"""Of a log that is shown: so much is made ready at a time."""

LOG_LINE_BYTES_MAX: Final = 16 << 10
"""A line of output that is longer is kept in pieces, as Docker does."""

ATTACHED_REPLAY_BYTES: Final = 64 << 10
"""Of what a container printed in this run, for who attaches later."""

ATTACHED_QUEUE_MAX: Final = 256
"""Pieces of output (64 KiB at most) waiting for somebody attached; who is further behind is let go."""

KEEPER_START_SECONDS: Final = 30.0
"""From starting a keeper to its first word; fetching what it then needs has no such bound."""

STARTS_AT_ONCE: Final = 4
"""Of containers that a daemon starts by itself."""

KEEPER_DIAL_SECONDS: Final = 5.0
NODE_BACK_SECONDS: Final = 60.0
"""A container that is to be run again waits so long for a node where there is none at that moment."""

EXEC_DRAIN_SECONDS: Final = 2.0
"""What a program wrote is read so long after its end, should others hold its output open."""

VOLUME_BUSY_SECONDS: Final = 10.0
"""A container that was killed has its volume until the node has unmounted it."""

PUBLISHED_PORTS_MAX: Final = 100
"""Of those that an image names, should all be published."""

PUBLISHED_CONNECTIONS_MAX: Final = 512
"""Of one published port of a container at once; others wait to be taken."""

DATAGRAM_FLOWS_MAX: Final = 256
DATAGRAM_IDLE_SECONDS: Final = 60.0
"""Of one published UDP port: senders at once, and how long one is remembered that is silent."""

HEALTH_SECONDS_MIN: Final = 0.1
HEALTH_SECONDS_MAX: Final = 86400.0
HEALTH_OUTPUT_BYTES: Final = 4096
HEALTH_LOG_MAX: Final = 5
"""Of health checks: between two of them and for one, what is kept of what one printed, and of how many (as Docker)."""
