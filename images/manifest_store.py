"""Manifests as blocks: cut into 64 KiB pieces, each compressed and stored like any other block.

A `ManifestRef` names one: the manifest's own id and length, and the list of its blocks. It is what an image version
carries, so whoever has the log's entry can fetch and verify the manifest from any peer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hyperlog.blocks import BlockStore
from hyperlog.ids import BlockId, ManifestId
from images.compression import decompress
from images.errors import ManifestCorrupt
from images.ingest import BlockWriter, IngestIndex, StoredBlock
from images.limits import PIECE_BYTES
from images.manifest import Manifest
from images.tree import piece_count


@dataclass(frozen=True, slots=True)
class ManifestRef:
    """Where a manifest is: its id, the bytes of its encoding, and the blocks that hold it, in order."""

    id: ManifestId
    raw_bytes: int
    blocks: tuple[StoredBlock, ...]

    @property
    def stored_bytes(self) -> int:
        """What fetching the manifest moves."""
        return sum(block.stored_bytes for block in self.blocks)


def store_manifest(blocks: BlockStore, index: IngestIndex, manifest: Manifest) -> ManifestRef:
    """Keep `manifest`; durable when this returns (with the next durable write of the store). Raises `StoreFull`."""
    writer = BlockWriter(blocks, index)
    ref = write_manifest(writer, manifest)
    writer.flush()
    return ref


def write_manifest(writer: BlockWriter, manifest: Manifest) -> ManifestRef:
    """Write the blocks of `manifest`; the caller flushes. Raises `StoreFull`."""
    encoded = manifest.encode()
    stored = [writer.write(encoded[start : start + PIECE_BYTES]) for start in range(0, len(encoded), PIECE_BYTES)]
    return ManifestRef(manifest.id, len(encoded), tuple(stored))


def load_manifest(blocks: BlockStore, ref: ManifestRef) -> Manifest:
    """The manifest from the local store. Raises `BlockMissing`, and as `join_manifest`."""
    return join_manifest(ref, [blocks.get(BlockId(block.id)) for block in ref.blocks])


def join_manifest(ref: ManifestRef, payloads: Sequence[bytes]) -> Manifest:
    """The manifest from its verified blocks. Raises `Corrupt` kinds when they are not what `ref` promises."""
    assert len(payloads) == len(ref.blocks) == piece_count(ref.raw_bytes)
    parts: list[bytes] = []
    left = ref.raw_bytes
    for payload, block in zip(payloads, ref.blocks, strict=True):
        if len(payload) != block.stored_bytes:
            raise ManifestCorrupt("a block of the manifest is not as long as the version says")
        parts.append(decompress(payload, min(left, PIECE_BYTES)))
        left -= PIECE_BYTES
    manifest = Manifest.decode(b"".join(parts))
    if manifest.id != ref.id:
        raise ManifestCorrupt("the blocks of the manifest do not make the one that the version names")
    return manifest
