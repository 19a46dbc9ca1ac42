"""Every bound of images, with its unit and reason. They hold for validly signed data too: an author may be hostile."""

from __future__ import annotations

from typing import Final

GRANULE_BYTES: Final = 4096
"""Unit of blob space: the page and the EROFS block, so that a file's first byte can be mapped by the kernel."""

PIECE_BYTES: Final = 1 << 16
"""Files are cut at multiples of this. Measured: 64 KiB costs .301 of raw, 256 KiB .284, 4 KiB .375 (design §4)."""

PIECE_GRANULES: Final = PIECE_BYTES // GRANULE_BYTES
BLOCK_GRANULES_MAX: Final = PIECE_GRANULES

BLOCK_STORED_MAX: Final = PIECE_BYTES + 512
"""zstd's bound for 64 KiB of noise is 65 824 bytes with its header; nothing longer can be an honest block."""

PACK_GRANULES_MIN: Final = 8
"""Blocks of small files are cut somewhere between this fill and the maximum (blob_layout.py)."""

COMPRESSION_LEVEL: Final = 3
"""122 MB/s at .397 of raw, against 41 MB/s at .378 for level 6 (reference/filesystem.md §5)."""

ENTRIES_MAX: Final = 5_000_000
"""Names in a tree. Real images have 10 k to 1 M (faults M5)."""

NAME_BYTES_MAX: Final = 255
PATH_BYTES_MAX: Final = 4095
DEPTH_MAX: Final = 1024
"""Linux' NAME_MAX and PATH_MAX; 1 024 directories deep is no file system but an attack (faults M4)."""

TARGET_BYTES_MAX: Final = 4095
FILE_BYTES_MAX: Final = 1 << 40
APPARENT_BYTES_MAX: Final = 1 << 50
"""Sizes as stat shows them, holes and shared extents counted in full (faults M6)."""

BLOB_GRANULES_MAX: Final = 1 << 28
"""1 TiB of blob space; granule numbers are 32 bits wide and the last one means a hole."""

CHUNKS_MAX: Final = 1 << 24
"""Pieces of all files that have holes: each may cost 8 bytes of EROFS metadata, 128 MiB in all (a 1 TiB lastlog)."""

XATTR_NAME_BYTES_MAX: Final = 255
XATTR_VALUE_BYTES_MAX: Final = (1 << 16) - 1
XATTR_SET_BYTES_MAX: Final = 1 << 16
"""Linux allows a value of 64 KiB; EROFS counts its bytes in 16 bits. A set counts as its names, values and 4 each."""

XATTR_SETS_MAX: Final = 1 << 18
XATTR_TOTAL_BYTES_MAX: Final = 1 << 28
"""All sets, each times its users: what the EROFS metadata spends on them (faults M12)."""

SECONDS_MAX: Final = 1 << 40
"""mtimes within ±34 865 years of 1970 (faults M14)."""

DEVICE_MAJOR_MAX: Final = (1 << 12) - 1
DEVICE_MINOR_MAX: Final = (1 << 20) - 1
"""What Linux' 32-bit device numbers hold."""

MANIFEST_BLOCKS_MAX: Final = 4096
MANIFEST_BYTES_MAX: Final = MANIFEST_BLOCKS_MAX * PIECE_BYTES
DIFFERENCE_BYTES_MAX: Final = 1 << 24
"""Longest manifest that is written as a difference, or from which one is taken (some 250 000 inodes): both are held in
memory, and a zstd window spans them."""
DIFFERENCE_LEVEL: Final = 19
DIFFERENCE_SHARE: Final = 4
"""A difference is kept if it is at most one part in so many of what it is taken from: who has neither fetches both."""
"""256 MiB encoded; 11 600 inodes take 0.7 MiB. The list of blocks has to fit the value of one log entry."""

CONFIG_LIST_MAX: Final = 4096
CONFIG_TEXT_BYTES_MAX: Final = 128 << 10
"""One argument or environment variable: Linux' MAX_ARG_STRLEN. All of a version still has to fit a log entry."""

NAME_CHARACTERS_MAX: Final = 128
MESSAGE_BYTES_MAX: Final = 16 << 10
VERSION_PREFIX_CHARACTERS_MIN: Final = 4
"""Shorter beginnings of entry ids are refused even when unique: they will not stay so."""

READER_CACHE_BYTES: Final = 8 << 20
"""Decompressed blocks kept by all readers of a node; the kernel's page cache above them holds what was read."""

READER_PARALLEL_MAX: Final = 64
"""Blocks that one read asks for at once."""

TRACE_GRANULES_MAX: Final = 1 << 14
"""64 MiB: a start of nginx touches 8 MB, one of a scientific Python stack 40 MB. All of it is fetched unasked."""

TRACE_AGE_MAX: Final = 3
"""A granule that this many recorded boots in a row did not touch leaves the trace with the next."""

TRACE_PROGRAM_BYTES_MAX: Final = 4096

HOT_LEVEL: Final = 19
"""A hot blob is made once and is what every first start waits for: 13 % smaller than level 3, 5 s for 8 MB."""

HOT_BLOBS_MAX: Final = 8
"""Hot blobs that one served image reads through."""

IMPORT_BATCH_FILES: Final = 32
IMPORT_BATCH_PIECES: Final = 4
IMPORT_INDEX_BATCH: Final = 256
"""Work is handed to threads in batches, so that handing it over (about 40 µs) does not cost more than the work."""

TAR_EXTENSION_BYTES_MAX: Final = 1 << 20
"""One pax header, or GNU long name (faults T6)."""

TAR_SEGMENTS_MAX: Final = 1 << 16
"""Data segments of one sparse file (faults T7)."""

LAYERS_MAX: Final = 127
"""Docker's own bound (faults M18)."""

UNPACKED_BYTES_MAX: Final = 64 << 30
"""All layers of a stack, decompressed (faults T9)."""

EXPANSION_RATIO_MAX: Final = 500
EXPANSION_FREE_BYTES: Final = 1 << 30
"""Past the second, a layer may not be more than the first times as long as its compressed bytes: honest layers of
sparse databases reach gzip's 1 032 : 1 for a while, bombs for all their length."""

DOCUMENT_BYTES_MAX: Final = 4 << 20
"""A manifest, index or configuration in JSON (faults M16)."""

INDEX_DEPTH_MAX: Final = 4
INDEX_MANIFESTS_MAX: Final = 1024
"""Indexes nest and list no more than this (faults T14)."""

SPOOL_CHUNK_BYTES: Final = 1 << 20
