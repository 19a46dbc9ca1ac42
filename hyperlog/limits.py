"""Every bound of the log layer, with its unit and reason. Signed data is bounded too: an author may be hostile."""

from __future__ import annotations

from typing import Final

KEY_BYTES: Final = 32
SIGNATURE_BYTES: Final = 64

ENTRY_VALUE_BYTES_MAX: Final = 1 << 20
"""An image version with 4 096 manifest blocks is about 160 KiB; more than 1 MiB is no record but data (faults L23)."""

ENTRY_LINKS_MAX: Final = 256
"""Heads merged by one entry; beyond that, merge in steps (faults L11)."""

ENTRY_BYTES_MAX: Final = ENTRY_VALUE_BYTES_MAX + ENTRY_LINKS_MAX * 32 + 4096
"""An entry alone: value, links, and at most 64 hashes of evidence."""

FEED_ENTRIES_MAX: Final = 1 << 48

RUN_ENTRIES_MAX: Final = 4096
RUN_BYTES_MAX: Final = 1 << 18
"""A run that peers send is cut when it reaches this many bytes of values; a single longer value goes alone."""

BATCH_ENTRIES_MAX: Final = 1 << 16
BATCH_BYTES_MAX: Final = 64 << 20
"""What one batch (one signature, one durable write) may hold; it is built in memory."""

WRITERS_MAX: Final = 1024
"""Admissions per log: each costs memory on every replica for ever."""

ENCODING_DEPTH_MAX: Final = 16
ENCODING_ITEMS_MAX: Final = 1 << 20
"""Containers nest a few levels in our formats; the bounds keep a decoder's work linear in its input."""

BLOCK_BYTES_MAX: Final = 1 << 18
"""Stored bytes of one block. Raw blocks are 64 KiB; the room above is for formats to come."""

PACK_BYTES_MAX: Final = 1 << 30
"""A pack file is closed at 1 GiB, so that one can be dropped or moved."""

PACK_ALIGN_BYTES: Final = 4096
"""Payloads start on file system blocks, so that a hole can be punched where one was evicted."""

LINK_TEXT_MAX: Final = 8192
LINK_PEERS_MAX: Final = 32
NAME_CHARACTERS_MAX: Final = 128

EXPORT_OPERATIONS: Final = 3
EXPORT_OPERATIONS_MAX: Final = 16
EXPORT_MEMORY_BYTES: Final = 256 << 20
EXPORT_MEMORY_BYTES_MIN: Final = 8 << 20
EXPORT_MEMORY_BYTES_MAX: Final = 1 << 30
"""Argon2id costs of an exported key: libsodium's "moderate". The bounds hold for texts from elsewhere."""

EXPORT_TEXT_MAX: Final = 1024

FRAME_BYTES_MAX: Final = 2 << 20
"""One message between replicas: an entry of the largest size with its evidence fits."""
FRAME_ITEMS_MAX: Final = 1024

PEER_FEEDS_MAX: Final = 4096
PEER_WANTS_MAX: Final = 1024
PEER_COMPARES_MAX: Final = 64
PEER_REFUSED_MAX: Final = 64
PEER_PROOFS_MAX: Final = 64
"""What one peer may make us remember or do at a time; beyond it, it is dropped."""

WAITING_FRAMES_MAX: Final = 64
WAITING_BYTES_MAX: Final = 4 << 20
"""Entries that came before what they link wait; beyond this they are dropped and asked for again."""

LINK_ATTEMPTS_MAX: Final = 3
COMPARE_IDS: Final = 32

SYSTEM_VALUE_BYTES_MAX: Final = 1024
LABEL_BYTES_MAX: Final = 256
"""Names and reasons in system entries are for people."""

FORK_PROOF_BYTES_MAX: Final = 2 * (ENTRY_LINKS_MAX * 32 + 4096)
