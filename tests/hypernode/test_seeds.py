"""What a seed keeps, what it lets go of, and that orders are remembered: without a node."""

from __future__ import annotations

import pytest

from hyperlog.errors import Conflict, NotFound, Refused
from hyperlog.ids import BlockId, EntryId, LogKey, ManifestId
from hyperlog.store import MemoryStore, Namespace
from hypernode.limits import SEED_VERSIONS_MAX, SEEDS_MAX
from hypernode.seeds import Seed, SeedBook, allowance, fitting, going_on, let_go, wanted
from hypernode.sizes import check_ratio
from images.catalog import Catalog, Published
from images.errors import NoSuchVersion, VersionCorrupt
from images.ingest import StoredBlock
from images.manifest_store import ManifestRef
from images.version import Config, ImageVersion

KEY = LogKey(b"k" * 32)


def _id(number: int) -> bytes:
    return bytes([number]) * 32


def _blocks(*numbers: int) -> dict[BlockId, int]:
    return {BlockId(_id(number)): 100 for number in numbers}


@pytest.mark.parametrize(
    ("budget", "count"), [(None, 3), (10_000, 3), (500, 3), (499, 2), (400, 2), (399, 1), (300, 1), (299, 0), (0, 0)]
)
def test_shared_blocks_count_once_and_older_versions_go_first(budget: int | None, count: int) -> None:
    newest_first = [_blocks(1, 2, 3), _blocks(2, 3, 4), _blocks(1, 5)]
    assert fitting(newest_first, budget) == count


def test_what_is_let_go_of() -> None:
    one, two, three = (EntryId(_id(number)) for number in (1, 2, 3))
    assert let_go({one: True, two: True, three: False}, {two: True}) == {one}
    assert let_go({one: True}, {one: False, two: True}) == {one}
    assert let_go({}, {one: True}) == set()


def _version(number: int, *, is_sound: bool = True) -> Published:
    reference = ManifestRef(ManifestId(_id(number)), 1, (StoredBlock(BlockId(_id(number)), 1),))
    version = ImageVersion(
        manifest=reference, config=Config(os="linux", arch="amd64"), parent=None, name="x", message="", created=0
    )
    error = None if is_sound else VersionCorrupt("broken")
    return Published(number, EntryId(_id(number)), version if is_sound else None, error)


def test_the_newest_sound_versions_are_wanted() -> None:
    catalog = Catalog(
        KEY, [_version(1), _version(2, is_sound=False), _version(3), _version(4)], {"old": EntryId(_id(1))}
    )
    seed = Seed(id="a", key=KEY, versions=2)
    assert [each.number for each in wanted(seed, catalog)] == [4, 3]
    assert [each.number for each in wanted(Seed(id="a", key=KEY, versions=SEED_VERSIONS_MAX), catalog)] == [4, 3, 1]
    assert [each.number for each in wanted(Seed(id="a", key=KEY, version="old"), catalog)] == [1]
    with pytest.raises(VersionCorrupt):
        wanted(Seed(id="a", key=KEY, version="2"), catalog)
    with pytest.raises(NoSuchVersion):
        wanted(seed, Catalog(KEY, [_version(1, is_sound=False)]))


def test_orders_are_remembered_each_for_its_owner() -> None:
    store = MemoryStore()
    book = SeedBook(Namespace(store, b"m"), clock=lambda: 7.0)
    entry = EntryId(_id(9))
    mine = book.put(
        Seed(id="a" * 32, key=KEY, versions=3, budget=5, rate=6, ratio=1.25, peers=("/ip4/1",), meta={"x": "y"})
    )
    other = book.put(
        Seed(id="b" * 32, key=KEY, owner="team", name="web", kept={entry: False}, given_before=7, held_bytes=8)
    )
    assert mine.added == 7
    again = SeedBook(Namespace(store, b"m"))
    assert again.all() == [mine, other]
    assert again.find(KEY, None) == mine
    assert again.find(KEY, None, "team") == other
    assert again.find(KEY, "v1") is None
    assert again.of(KEY) == [mine]
    assert again.of(KEY, None) == [mine, other]
    assert again.keeps(KEY, entry) is False
    assert again.keeps(LogKey(b"o" * 32), entry) is None
    again.put(Seed(id="a" * 32, key=KEY, kept={entry: True}, added=7))
    assert again.keeps(KEY, entry) is True, "one of two keeps all of it"
    again.remove(other.id)
    with pytest.raises(NotFound):
        again.remove(other.id)
    assert [seed.id for seed in SeedBook(Namespace(store, b"m")).all()] == [mine.id]


def _order(ratio: float | None, held: int = 1000, given_before: int = 50) -> Seed:
    return Seed(id="a", key=KEY, ratio=ratio, held_bytes=held, given_before=given_before)


@pytest.mark.parametrize(
    ("orders", "daemon", "bytes_max"),
    [
        ([], 2.0, None),
        ([_order(None)], 0.0, None),
        ([_order(None)], 2.0, 2050),
        ([_order(1.5)], 2.0, 1550),
        ([_order(0.0)], 2.0, None),
        ([_order(0.0015)], 0.0, 52),
        ([_order(2.0, held=0)], 2.0, None),  # not all of it is here yet
        ([_order(1.0), _order(2.0, held=300)], 0.0, 1050),
        ([_order(1.0), _order(None)], 0.0, None),
    ],
)
def test_a_log_is_served_until_the_last_order_about_it_is_done(
    orders: list[Seed], daemon: float, bytes_max: int | None
) -> None:
    assert allowance(orders, daemon) == bytes_max


def test_an_order_that_is_changed_goes_on_and_whoever_limits_hears_of_it() -> None:
    told: list[LogKey] = []
    book = SeedBook(Namespace(MemoryStore(), b"m"), changed=told.append)
    before = book.put(Seed(id="a" * 32, key=KEY, added=7, kept={EntryId(_id(1)): True}, given_before=5, held_bytes=6))
    after = book.put(going_on(Seed(id="b" * 32, key=KEY, ratio=2.0, versions=3), before))
    assert (after.id, after.added, after.kept) == (before.id, 7, before.kept)
    assert (after.given_before, after.held_bytes, after.ratio, after.versions) == (5, 6, 2.0, 3)
    book.remove(after.id)
    assert told == [KEY] * 3


@pytest.mark.parametrize("bad", [-1.0, 0.0001, 1001.0, float("nan"), float("inf")])
def test_what_is_no_ratio(bad: float) -> None:
    with pytest.raises(Refused, match="no ratio"):
        check_ratio(bad)
    assert [check_ratio(good) for good in (0.0, 0.001, 2.0, 1000.0)] == [0.0, 0.001, 2.0, 1000.0]


def test_a_damaged_record_and_too_many_orders() -> None:
    store = MemoryStore()
    namespace = Namespace(store, b"m")
    book = SeedBook(namespace)
    for number in range(SEEDS_MAX):  # each is durable: to a store in memory that costs nothing
        book.put(Seed(id=f"{number:032x}", key=KEY))
    with pytest.raises(Conflict, match="at most"):
        book.put(Seed(id="f" * 32, key=KEY))
    book.put(Seed(id="0" * 32, key=KEY, versions=2))  # a change of one that is there
    namespace.put_many([(b"seed\0" + b"0" * 32, b"nonsense")])
    assert len(SeedBook(namespace).all()) == SEEDS_MAX - 1
