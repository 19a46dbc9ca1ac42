"""Which blocks are still wanted, and what may go; pure.

A version reaches the blocks of its manifest and those the manifest names. What is kept (pinned, written by this home,
under a volume, in use) keeps all it reaches. Of the others the most recently used stay as long as everything together
fits the budget; a version goes whole, since half of one saves little and boots badly. Blocks that no version reaches
are leftovers of imports and pulls that did not end, or of forgotten logs: they go first.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass

from hyperlog.ids import BlockId
from images.manifest import Manifest
from images.manifest_store import ManifestRef


def reached(ref: ManifestRef, manifest: Manifest | None) -> dict[BlockId, int]:
    """The stored bytes of each distinct block of a version; without its manifest, of the manifest's own blocks."""
    found = {block.id: block.stored_bytes for block in ref.blocks}
    if manifest is not None:
        found.update(manifest.stored_blocks())
    return found


@dataclass(frozen=True, slots=True)
class Candidate:
    """A version that nothing holds: `used` says when it last was (seconds since 1970), `blocks` what it reaches."""

    name: str
    used: float
    blocks: Set[BlockId]


@dataclass(frozen=True, slots=True)
class Plan:
    """What a collection removes: blocks, their stored bytes, and the names of versions that lose any."""

    blocks: tuple[BlockId, ...]
    stored_bytes: int
    versions: tuple[str, ...]


def plan_collect(
    held: Mapping[BlockId, int], kept: Set[BlockId], candidates: Sequence[Candidate], *, budget: int
) -> Plan:
    """What to remove of the blocks `held` here, so that what is not in `kept` fits into what `kept` leaves of `budget`.

    With a budget of 0 everything goes that nothing keeps. Bytes are stored bytes.
    """
    staying = {block for block in held if block in kept}
    room = budget - _bytes(held, staying)
    gone: list[str] = []
    for candidate in sorted(candidates, key=lambda each: (-each.used, each.name)):
        here = {block for block in candidate.blocks if block in held and block not in staying}
        cost = _bytes(held, here)
        if cost <= room:
            staying |= here
            room -= cost
        elif here:
            gone.append(candidate.name)
    going = tuple(sorted(block for block in held if block not in staying))
    return Plan(going, _bytes(held, going), tuple(gone))


def _bytes(held: Mapping[BlockId, int], blocks: Iterable[BlockId]) -> int:
    return sum(held[block] for block in blocks)
