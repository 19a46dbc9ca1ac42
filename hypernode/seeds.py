"""What a home seeds for others: standing orders to keep the newest versions of an image here, and which of them are.

An order names a log, or one version of it by number, tag or entry. It is *whole* (everything of the versions is
fetched) or *sparse* (entries and manifests; blocks as somebody here reads them). Which versions it keeps at a moment is
written down before anything of them is fetched, so collecting (operations/keeping.py) knows, also after a crash.
Orders have owners: this home's user (""), or the holder of a token (tokens.py), so two may want the same image and
one of them let go of it.

An order may have a *ratio*: once peers were given so many times the bytes that it holds, it is done, and what it holds
stays but is served no more. As with torrents, each version counts anew: from its coming on, once all of it is here.
"""

from __future__ import annotations

import math
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
    ratio: float | None = None
    """None: the daemon's; 0: however much was given."""
    peers: tuple[str, ...] = ()
    owner: str = ""
    name: str = ""
    meta: Mapping[str, str] = field(default_factory=dict)
    added: int = 0
    """Seconds since 1970."""
    kept: Mapping[EntryId, bool] = field(default_factory=dict)
    """Versions that it keeps at this moment; False: nothing but the manifest."""
    given_before: int = 0
    """Bytes that were given of the log in all when the newest of them came."""
    held_bytes: int = 0
    """What it holds, since all of that is here; 0 until then."""

    @property
    def link(self) -> str:
        return Link(self.key, self.version).text


def enough(seed: Seed, ratio: float) -> int | None:
    """After how many bytes given of the log in all an order is done; None: never. `ratio`: the daemon's."""
    ratio = ratio if seed.ratio is None else seed.ratio
    return seed.given_before + math.ceil(ratio * seed.held_bytes) if ratio and seed.held_bytes else None


def allowance(orders: Iterable[Seed], ratio: float) -> int | None:
    """How many bytes of a log may be given in all: until the last of the orders about it is done; None: no end."""
    found = [enough(seed, ratio) for seed in orders]
    known = [count for count in found if count is not None]
    return max(known) if known and len(known) == len(found) else None


def new_seed_id() -> str:
    return os.urandom(_ID_BYTES).hex()


class SeedBook:
    """All orders of a home, remembered in its store. `clock`: seconds since 1970. `changed` is told of which log
    there is another order now, or one less."""

    def __init__(
        self,
        namespace: Namespace,
        clock: Callable[[], float] = time.time,
        changed: Callable[[LogKey], None] = lambda _: None,
    ) -> None:
        self._namespace = namespace
        self._clock = clock
        self._changed = changed
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

    def of(self, key: LogKey, owner: str | None = "") -> list[Seed]:
        """The orders of `owner` for anything of the log; None: of anybody."""
        return [seed for seed in self.all() if seed.key == key and owner in (seed.owner, None)]

    def put(self, seed: Seed) -> Seed:
        """Remember an order, durably. Raises `Conflict` when there are too many."""
        if seed.id not in self._seeds and len(self._seeds) >= SEEDS_MAX:
            raise Conflict(f"a home seeds at most {SEEDS_MAX} things", "`hypernode seed rm` makes room")
        if not seed.added:
            seed = replace(seed, added=int(self._clock()))
        self._namespace.put_many([(_PREFIX + seed.id.encode(), _encode(seed))], durable=True)
        self._seeds[seed.id] = seed
        self._changed(seed.key)
        return seed

    def remove(self, identifier: str) -> None:
        """Forget an order, durably. Raises `NotFound`."""
        seed = self._seeds.pop(identifier, None)
        if seed is None:
            raise NotFound("there is no such seed", "`hypernode seed ls` lists them")
        self._namespace.delete(_PREFIX + identifier.encode())
        self._namespace.put_many((), durable=True)
        self._changed(seed.key)

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


def going_on(seed: Seed, before: Seed) -> Seed:
    """The order in place of the one before: what that keeps and has given counts."""
    return replace(
        seed,
        id=before.id,
        added=before.added,
        kept=before.kept,
        given_before=before.given_before,
        held_bytes=before.held_bytes,
    )


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
            "ratio": None if seed.ratio is None else round(seed.ratio * 1000),  # records have no floats
            "peers": list(seed.peers),
            "owner": seed.owner,
            "name": seed.name,
            "meta": dict(seed.meta),
            "added": seed.added,
            "kept": [entry for entry, is_whole in seed.kept.items() if is_whole],
            "manifests": [entry for entry, is_whole in seed.kept.items() if not is_whole],
            "given": seed.given_before,
            "held": seed.held_bytes,
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
            "ratio": int() | None as ratio,
            "peers": [*peers],
            "owner": str(owner),
            "name": str(name),
            "meta": dict(meta),
            "added": int(added),
            "kept": [*kept],
            "manifests": [*manifests],
            "given": int(given),
            "held": int(held),
        } if len(key) == ID_BYTES:
            return Seed(
                id=identifier,
                key=LogKey(key),
                version=version,
                is_sparse=is_sparse,
                versions=versions,
                budget=budget,
                rate=rate,
                ratio=None if ratio is None else ratio / 1000,
                peers=tuple(peer for peer in peers if isinstance(peer, str)),
                owner=owner,
                name=name,
                meta={str(word): str(text) for word, text in meta.items()},
                added=added,
                kept=dict.fromkeys(_entries(manifests), False) | dict.fromkeys(_entries(kept), True),
                given_before=given,
                held_bytes=held,
            )
    return None


def _entries(values: Iterable[object]) -> list[EntryId]:
    return [EntryId(value) for value in values if isinstance(value, bytes) and len(value) == ID_BYTES]
