"""What a home seeds for others: standing orders to keep the newest versions of an image here, and which of them are.

An order names a log, or one version of it by number, tag or entry. It is *whole* (everything of the versions is
fetched) or *sparse* (entries and manifests; blocks as somebody here reads them). Which versions it keeps at a moment is
written down before anything of them is fetched, so collecting (operations/keeping.py) knows, also after a crash.
Orders have owners: this home's user (""), or the holder of a token (tokens.py), so two may want the same image and
one of them let go of it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from typing import Final

from hyperlog.encoding import decode, encode
from hyperlog.errors import Conflict, Corrupt, NotFound
from hyperlog.ids import ID_BYTES, BlockId, EntryId, LogKey
from hyperlog.link import Link
from hyperlog.store import Namespace
from hypernode.limits import SEED_VERSIONS_MAX, SEEDS_MAX
from images.catalog import Catalog, Published
from images.errors import NoSuchVersion

_PREFIX: Final = b"seed\0"
_RECORD_BYTES_MAX: Final = 1 << 20
_ID_BYTES: Final = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Seed:
    """One order. `version` None: the newest `versions` of the log, whatever comes. Bytes, and bytes a second."""

    id: str
    key: LogKey
    version: str | None = None
    is_sparse: bool = False
    versions: int = 1
    budget: int | None = None
    rate: int | None = None
    peers: tuple[str, ...] = ()
    owner: str = ""
    name: str = ""
    meta: Mapping[str, str] = field(default_factory=dict)
    added: int = 0
    """Seconds since 1970."""
    kept: Mapping[EntryId, bool] = field(default_factory=dict)
    """Versions that it keeps at this moment; False: nothing but the manifest."""

    @property
    def link(self) -> str:
        return Link(self.key, self.version).text


def new_seed_id() -> str:
    return os.urandom(_ID_BYTES).hex()


class SeedBook:
    """All orders of a home, remembered in its store. `clock`: seconds since 1970."""

    def __init__(self, namespace: Namespace, clock: Callable[[], float] = time.time) -> None:
        self._namespace = namespace
        self._clock = clock
        self._seeds: dict[str, Seed] = {}
        for key, raw in namespace.items():
            if key.startswith(_PREFIX):
                seed = _decode(key[len(_PREFIX) :].decode("ascii", "replace"), raw)
                if seed is not None:
                    self._seeds[seed.id] = seed

    def all(self) -> list[Seed]:
        """Oldest first."""
        return sorted(self._seeds.values(), key=lambda seed: (seed.added, seed.id))

    def get(self, identifier: str) -> Seed | None:
        return self._seeds.get(identifier)

    def find(self, key: LogKey, version: str | None, owner: str = "") -> Seed | None:
        """The order of `owner` for exactly this."""
        mine = (seed for seed in self._seeds.values() if seed.owner == owner)
        return next((seed for seed in mine if (seed.key, seed.version) == (key, version)), None)

    def of(self, key: LogKey, owner: str = "") -> list[Seed]:
        """The orders of `owner` for anything of the log."""
        return [seed for seed in self.all() if (seed.key, seed.owner) == (key, owner)]

    def put(self, seed: Seed) -> Seed:
        """Remember an order, durably. Raises `Conflict` when there are too many."""
        if seed.id not in self._seeds and len(self._seeds) >= SEEDS_MAX:
            raise Conflict(f"a home seeds at most {SEEDS_MAX} things", "`hypernode seed rm` makes room")
        if not seed.added:
            seed = replace(seed, added=int(self._clock()))
        self._namespace.put_many([(_PREFIX + seed.id.encode(), _encode(seed))], durable=True)
        self._seeds[seed.id] = seed
        return seed

    def remove(self, identifier: str) -> None:
        """Forget an order, durably. Raises `NotFound`."""
        if self._seeds.pop(identifier, None) is None:
            raise NotFound("there is no such seed", "`hypernode seed ls` lists them")
        self._namespace.delete(_PREFIX + identifier.encode())
        self._namespace.put_many((), durable=True)

    def keeps(self, key: LogKey, entry: EntryId) -> bool | None:
        """Whether an order keeps the version: None for no, False for nothing but its manifest, True for all of it."""
        found = [seed.kept[entry] for seed in self._seeds.values() if seed.key == key and entry in seed.kept]
        return any(found) if found else None


def wanted(seed: Seed, catalog: Catalog) -> list[Published]:
    """The versions that an order is about, newest first; those that are not sound are passed over. May raise
    `NoSuchVersion`, `AmbiguousVersion`, or what is wrong with the one version that is named."""
    if seed.version is not None:
        entry = catalog.resolve(seed.version).entry
        return [each for each in catalog.versions if each.entry == entry]
    sound = [each for each in reversed(catalog.versions) if each.version is not None]
    if not sound:
        raise NoSuchVersion("the log has no image version yet", "its author has to publish one")
    return sound[: min(seed.versions, SEED_VERSIONS_MAX)]


def fitting(sizes: Sequence[Mapping[BlockId, int]], budget: int | None) -> int:
    """How many versions, given newest first as block → stored bytes, fit the budget together; shared blocks count once.

    Newer ones come first: where one does not fit, no older one is taken.
    """
    if budget is None:
        return len(sizes)
    room, taken = budget, set[BlockId]()
    for number, blocks in enumerate(sizes):
        room -= sum(size for block, size in blocks.items() if block not in taken)
        if room < 0:
            return number
        taken |= blocks.keys()
    return len(sizes)


def let_go(before: Mapping[EntryId, bool], after: Mapping[EntryId, bool]) -> Set[EntryId]:
    """Versions that were kept whole and are not any more."""
    return {entry for entry, is_whole in before.items() if is_whole and not after.get(entry, False)}


def _encode(seed: Seed) -> bytes:
    return encode(
        {
            "key": seed.key,
            "version": seed.version,
            "sparse": seed.is_sparse,
            "versions": seed.versions,
            "budget": seed.budget,
            "rate": seed.rate,
            "peers": list(seed.peers),
            "owner": seed.owner,
            "name": seed.name,
            "meta": dict(seed.meta),
            "added": seed.added,
            "kept": [entry for entry, is_whole in seed.kept.items() if is_whole],
            "manifests": [entry for entry, is_whole in seed.kept.items() if not is_whole],
        }
    )


def _decode(identifier: str, raw: bytes) -> Seed | None:
    """The order, or None: a record of another version of hypernode is left alone."""
    try:
        value = decode(raw, bytes_max=_RECORD_BYTES_MAX)
    except Corrupt:
        return None
    match value:
        case {
            "key": bytes(key),
            "version": str() | None as version,
            "sparse": bool(is_sparse),
            "versions": int(versions),
            "budget": int() | None as budget,
            "rate": int() | None as rate,
            "peers": [*peers],
            "owner": str(owner),
            "name": str(name),
            "meta": dict(meta),
            "added": int(added),
            "kept": [*kept],
            "manifests": [*manifests],
        } if len(key) == ID_BYTES:
            return Seed(
                id=identifier,
                key=LogKey(key),
                version=version,
                is_sparse=is_sparse,
                versions=versions,
                budget=budget,
                rate=rate,
                peers=tuple(peer for peer in peers if isinstance(peer, str)),
                owner=owner,
                name=name,
                meta={str(word): str(text) for word, text in meta.items()},
                added=added,
                kept=dict.fromkeys(_entries(manifests), False) | dict.fromkeys(_entries(kept), True),
            )
    return None


def _entries(values: Iterable[object]) -> list[EntryId]:
    return [EntryId(value) for value in values if isinstance(value, bytes) and len(value) == ID_BYTES]
