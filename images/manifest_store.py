"""Manifests as blocks: cut into 64 KiB pieces, each compressed and stored like any other block.

A `ManifestRef` names one: the manifest's own id and length, and the list of its blocks. It is what an image version
carries, so whoever has the log's entry can fetch and verify the manifest from any peer.

A version that changes little has its manifest as a *difference*: one block that makes it of an earlier manifest, its
base, which is always whole itself. One changed file then costs some hundred bytes instead of most of the manifest,
whose hashes compress badly (measured: 400 bytes instead of 150 KB for a root of 230 MB). When the difference has grown
beyond a quarter of its base, the next version is whole again, so nobody fetches much more than one manifest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hyperlog.blocks import BlockStore
from hyperlog.errors import BlockMissing
from hyperlog.ids import BlockId, ManifestId
from images.compression import compress_difference, decompress, decompress_difference
from images.errors import ManifestCorrupt
from images.ingest import BlockWriter, StoredBlock
from images.limits import BLOCK_STORED_MAX, DIFFERENCE_BYTES_MAX, DIFFERENCE_SHARE, PIECE_BYTES
from images.manifest import Manifest


@dataclass(frozen=True, slots=True)
class ManifestRef:
    """Where a manifest is: its id, the bytes of its encoding, and the blocks that hold it, in order.

    `pieces` are the compressed pieces of the encoding; with a `base`, the one block that makes it of that.
    """

    id: ManifestId
    raw_bytes: int
    pieces: tuple[StoredBlock, ...]
    base: ManifestRef | None = None

    @property
    def blocks(self) -> tuple[StoredBlock, ...]:
        """All that must be here to read it, the base's first."""
        return self.pieces if self.base is None else (*self.base.pieces, *self.pieces)

    @property
    def stored_bytes(self) -> int:
        """What fetching the manifest moves."""
        return sum(block.stored_bytes for block in self.blocks)


def write_manifest(writer: BlockWriter, manifest: Manifest, previous: ManifestRef | None = None) -> ManifestRef:
    """Write the blocks of `manifest`; the caller flushes. Raises `StoreFull`.

    `previous`: the version before, of which it may become a difference if that is here.
    """
    encoded = manifest.encode()
    if previous is not None:
        ref = _difference(writer, manifest.id, encoded, previous.base or previous)
        if ref is not None:
            return ref
    stored = [writer.write(encoded[start : start + PIECE_BYTES]) for start in range(0, len(encoded), PIECE_BYTES)]
    return ManifestRef(manifest.id, len(encoded), tuple(stored))


def _difference(writer: BlockWriter, identifier: ManifestId, encoded: bytes, base: ManifestRef) -> ManifestRef | None:
    """As a difference from `base`; None where that does not pay, or `base` is not here."""
    if base.id == identifier:
        return base if all(writer.is_held(block) for block in base.pieces) else None
    if max(len(encoded), base.raw_bytes) > DIFFERENCE_BYTES_MAX:
        return None
    try:
        payloads = [writer.read(block) for block in base.pieces]
    except BlockMissing:
        return None
    payload = compress_difference(encoded, _join(base, payloads))
    if len(payload) > min(BLOCK_STORED_MAX, base.stored_bytes // DIFFERENCE_SHARE):
        return None
    return ManifestRef(identifier, len(encoded), (writer.keep(payload),), base)


def load_manifest(blocks: BlockStore, ref: ManifestRef) -> Manifest:
    """The manifest from the local store. Raises `BlockMissing`, and as `join_manifest`."""
    return join_manifest(ref, [blocks.get(BlockId(block.id)) for block in ref.blocks])


def join_manifest(ref: ManifestRef, payloads: Sequence[bytes]) -> Manifest:
    """The manifest from its verified blocks. Raises `Corrupt` kinds when they are not what `ref` promises."""
    assert len(payloads) == len(ref.blocks)
    if any(len(payload) != block.stored_bytes for payload, block in zip(payloads, ref.blocks, strict=True)):
        raise ManifestCorrupt("a block of the manifest is not as long as the version says")
    if ref.base is None:
        encoded = _join(ref, payloads)
    else:
        encoded = decompress_difference(payloads[-1], _join(ref.base, payloads[:-1]), ref.raw_bytes)
    manifest = Manifest.decode(encoded)
    if manifest.id != ref.id:
        raise ManifestCorrupt("the blocks of the manifest do not make the one that the version names")
    return manifest


def _join(whole: ManifestRef, payloads: Sequence[bytes]) -> bytes:
    sizes = [PIECE_BYTES] * (len(payloads) - 1)
    sizes.append(whole.raw_bytes - sum(sizes))
    return b"".join(decompress(payload, size) for payload, size in zip(payloads, sizes, strict=True))
