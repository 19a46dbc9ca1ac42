"""Logs come to the same state, and only what is valid is taken."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass

import pytest
import trio
from trio.testing import MockClock

from hyperlog import messages as exchange
from hyperlog.errors import AppendsHeld, NoProvider, StoreFull
from hyperlog.forks import ForkProof
from hyperlog.ids import EntryId, LogKey, WriterKey, discovery_key
from hyperlog.log import Log, Logs
from hyperlog.run import encode_run
from hyperlog.store import MemoryStore
from swarm.addresses import parse_address
from swarm.errors import ConnectionLost
from swarm.limits import AGREE_SECONDS, EMPTY_SECONDS, ENTRIES_OWED_SECONDS, STALL_SECONDS
from swarm.network import Network, NetworkSetup, Serving, Stream
from swarm.replication.messages import NONCE_BYTES
from swarm.replication.session import Session
from swarm.replication.session_events import ExchangeCame
from swarm.swarm import Swarm, SwarmConfig
from swarm.testing import MemoryBlocks, MemoryInternet
from tests.swarm.support import LISTEN, Node, memory_logs

MakeNode = Callable[..., Node]


def append_many(log: Log, count: int, size: int = 20) -> None:
    for number in range(count):
        log.append(number.to_bytes(4, "big") + os.urandom(size))


async def start_author(make_node: MakeNode, nursery: trio.Nursery, entries: int) -> tuple[Node, Log]:
    author = make_node()
    log = author.logs.create("image")
    append_many(log, entries)
    author.swarm.join(log.key)
    return await author.start(nursery), log


def held(node: Node, key: LogKey) -> list[EntryId]:
    return held_by(node.logs.open(key))


def held_by(log: Log) -> list[EntryId]:
    return [entry.id for _, entry in log.changes()]


@pytest.mark.parametrize("count", [0, 1, 3, 600])
async def test_sync_brings_all_there_is(
    count: int, clock: MockClock, make_node: MakeNode, nursery: trio.Nursery
) -> None:
    author, log = await start_author(make_node, nursery, count)
    reader = await make_node().start(nursery)
    reader.swarm.join(log.key, author.addresses)
    with trio.fail_after(5 if count else EMPTY_SECONDS + 1):
        await reader.swarm.sync_log(log.key)
    assert held(reader, log.key) == held(author, log.key)
    assert len(held(reader, log.key)) == count


async def test_large_entries_pass(clock: MockClock, make_node: MakeNode, nursery: trio.Nursery) -> None:
    author, log = await start_author(make_node, nursery, 0)
    append_many(log, 5, 1_000_000)
    reader = await make_node().start(nursery)
    reader.swarm.join(log.key, author.addresses)
    with trio.fail_after(20):
        await reader.swarm.sync_log(log.key)
    assert held(reader, log.key) == held(author, log.key)


async def test_a_second_sync_brings_what_is_new(clock: MockClock, make_node: MakeNode, nursery: trio.Nursery) -> None:
    author, log = await start_author(make_node, nursery, 3)
    reader = await make_node().start(nursery)
    reader.swarm.join(log.key, author.addresses)
    with trio.fail_after(10):
        await reader.swarm.sync_log(log.key)
        append_many(log, 2)
        await reader.swarm.sync_log(log.key)
    assert len(held(reader, log.key)) == 5


async def test_new_entries_are_pushed_through_a_chain_of_peers(
    clock: MockClock, make_node: MakeNode, nursery: trio.Nursery
) -> None:
    author, log = await start_author(make_node, nursery, 1)
    middle = await make_node().start(nursery)
    last = await make_node().start(nursery)
    middle.swarm.join(log.key, author.addresses)
    last.swarm.join(log.key, middle.addresses)
    await trio.sleep(2)
    append_many(log, 1)
    await trio.sleep(2)
    append_many(log, 40)
    await trio.sleep(2)
    assert held(last, log.key) == held(author, log.key)
    assert last.swarm.statistics().peers[0].entries_in == 42  # each once


async def test_sync_waits_for_a_peer_that_comes_later(
    clock: MockClock, make_node: MakeNode, nursery: trio.Nursery
) -> None:
    author, log = await start_author(make_node, nursery, 3)
    reader = await make_node().start(nursery)
    reader.swarm.join(log.key)

    async def introduce() -> None:
        await trio.sleep(5)
        reader.swarm.join(log.key, author.addresses)

    nursery.start_soon(introduce)
    with trio.fail_after(8):
        await reader.swarm.sync_log(log.key)
    assert len(held(reader, log.key)) == 3


async def test_sync_with_nobody_gives_up(
    clock: MockClock, make_node: MakeNode, log: Log, nursery: trio.Nursery
) -> None:
    reader = await make_node(give_up_seconds=3).start(nursery)
    reader.swarm.join(log.key)
    with pytest.raises(NoProvider, match="no peer is known"):
        await reader.swarm.sync_log(log.key)


async def test_an_unknown_log_is_refused_and_sync_says_so(
    clock: MockClock, make_node: MakeNode, log: Log, nursery: trio.Nursery
) -> None:
    other, _ = await start_author(make_node, nursery, 3)
    reader = await make_node(give_up_seconds=3).start(nursery)
    reader.swarm.join(log.key, other.addresses)
    with pytest.raises(NoProvider, match="does not share this log"):
        await reader.swarm.sync_log(log.key)
    assert reader.swarm.statistics().sessions_refused > 0


async def test_a_peer_that_lags_behind_gets_ours(clock: MockClock, make_node: MakeNode, nursery: trio.Nursery) -> None:
    author, log = await start_author(make_node, nursery, 7)
    reader = await make_node().start(nursery)
    reader.swarm.join(log.key)
    author.swarm.join(log.key, reader.addresses)  # the one that has entries dials
    with trio.fail_after(5):
        await reader.swarm.sync_log(log.key)
    assert len(held(reader, log.key)) == 7


# ---------------------------------------------------------------------------------------------- what is not taken


class Forger:
    """Knows the log, claims `claimed` entries of its owner, and says `frames` when it is asked for them.

    Then it says that it answered, or else (`silent`) nothing more.
    """

    def __init__(
        self, network: Network, key: LogKey, claimed: int, frames: Sequence[exchange.Message], *, silent: bool
    ) -> None:
        self._network = network
        self._logs = {discovery_key(key): key}
        self._greeting: list[exchange.Message] = [
            exchange.Hello(exchange.VERSION, pulls=True, pushes=True, live=True),
            exchange.State(True, ((WriterKey(key), claimed, EntryId(b"?" * 32)),), ()),
        ]
        self._frames = frames
        self._silent = silent

    async def accept(self, stream: Stream) -> None:
        session = Session.respond(
            self._logs.get,
            local=self._network.peer_id,
            remote=stream.remote,
            nonce=os.urandom(NONCE_BYTES),
            decoy=bytes(32),
        )
        requests = 0
        with suppress(ConnectionLost):
            await stream.send_all(session.take_output())
            while data := await stream.receive_some():
                for event in session.receive(data):
                    if not isinstance(event, ExchangeCame):
                        continue
                    answers: list[exchange.Message] = []
                    match exchange.decode_message(event.frame):
                        case exchange.Hello():
                            answers = self._greeting
                        case exchange.Request():
                            requests += 1
                            answers = [*self._frames, *([] if self._silent else [exchange.Sent(requests)])]
                    for answer in answers:
                        session.send_exchange(exchange.encode_message(answer))
                await stream.send_all(session.take_output())
        await stream.close()


@dataclass
class Forgery:
    """A log with two entries, another second one by the same key, runs of these, and who sends what."""

    log: Log
    first: bytes
    second: bytes
    both: bytes
    other_second: bytes
    proof: bytes
    """That there are two second entries."""
    foreign: bytes
    read: Callable[..., Awaitable[Node]]
    """(number of entries claimed, frames) → a reader who knows only the forger."""


def run_of(log: Log, start: int = 0, end: int | None = None) -> bytes:
    writer = log.writer
    assert writer is not None
    return encode_run(log.run(writer, start, until=end))


@pytest.fixture
def forgery(
    make_node: MakeNode, make_logs: Callable[..., Logs], internet: MemoryInternet, nursery: trio.Nursery
) -> Forgery:
    logs = make_logs()
    log = logs.create("image")
    append_many(log, 1)
    twin = make_logs(same_keys_as=logs).add_remote(log.key)
    twin.add_run(run_of(log))
    append_many(log, 1)
    append_many(twin, 1)

    async def read(claimed: int, frames: Sequence[exchange.Message], *, silent: bool = False) -> Node:
        network = internet.network(NetworkSetup(identity_seed=b"f" * 32, mdns=False))
        forger = Forger(network, log.key, claimed, frames, silent=silent)
        serving = Serving(accept=forger.accept, found=lambda _: None)
        addresses = await nursery.start(network.serve, [LISTEN], serving)
        reader = await make_node(give_up_seconds=4).start(nursery)
        reader.swarm.join(log.key, addresses)
        return reader

    elsewhere = make_logs().create("other")
    append_many(elsewhere, 1)
    return Forgery(
        log,
        first=run_of(log, 0, 1),
        second=run_of(log, 1, 2),
        both=run_of(log),
        other_second=run_of(twin, 1, 2),
        proof=ForkProof.of(*(each.claim(WriterKey(log.key), 1) for each in (log, twin))).encode(),
        foreign=run_of(elsewhere),
        read=read,
    )


def flipped(data: bytes, position: int) -> bytes:
    return data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :]


@pytest.mark.parametrize(
    "forge",
    [
        lambda f: [f.first[:-1]],
        lambda f: [flipped(f.first, 130)],  # in the signature
        lambda f: [flipped(f.first, len(f.first) - 1)],
        lambda f: [f.foreign],
        lambda f: [f.first, f.second + b"x"],
        lambda f: [f.first, flipped(f.second, len(f.second) - 1)],
    ],
    ids=["cut", "bad signature", "bad value", "other log", "half a good batch", "half a signed batch"],
)
async def test_forged_entries_are_not_taken(
    forge: Callable[[Forgery], list[bytes]], clock: MockClock, forgery: Forgery
) -> None:
    reader = await forgery.read(2, [exchange.Runs(tuple(forge(forgery)))])
    with pytest.raises(NoProvider):
        await reader.swarm.sync_log(forgery.log.key)
    assert held(reader, forgery.log.key) == []
    (peer,) = reader.swarm.statistics().peers
    assert peer.banned
    assert peer.fault is not None


@pytest.mark.parametrize(
    "message",
    [
        exchange.Hello(exchange.VERSION, pulls=True, pushes=True, live=True),  # twice
        exchange.Done(1000),
        exchange.Sent(1000),
        exchange.Fork(b"\x01no proof"),
    ],
    ids=lambda message: type(message).__name__,
)
async def test_an_exchange_that_is_none_bans_the_peer(
    message: exchange.Message, clock: MockClock, forgery: Forgery
) -> None:
    reader = await forgery.read(1, [message])
    with pytest.raises(NoProvider):
        await reader.swarm.sync_log(forgery.log.key)
    assert [peer.banned for peer in reader.swarm.statistics().peers] == [True]


async def test_entries_that_come_before_others_are_not_held_against_the_peer(
    clock: MockClock, forgery: Forgery
) -> None:
    reader = await forgery.read(2, [exchange.Runs((forgery.second,)), exchange.Runs((forgery.first,))])
    with trio.fail_after(3):
        await reader.swarm.sync_log(forgery.log.key)
    assert held(reader, forgery.log.key) == held_by(forgery.log)
    assert [peer.banned for peer in reader.swarm.statistics().peers] == [False]


async def test_a_claim_that_is_not_kept_does_not_hold_up_a_sync(
    clock: MockClock, make_node: MakeNode, forgery: Forgery, nursery: trio.Nursery
) -> None:
    key = forgery.log.key
    reader = await forgery.read(1000, [], silent=True)
    await trio.sleep(1)  # the feed is asked for there by now
    honest = await make_node().start(nursery)
    honest.logs.add_remote(key).add_run(forgery.both)
    honest.swarm.join(key)
    reader.swarm.join(key, honest.addresses)
    with trio.fail_after(STALL_SECONDS + AGREE_SECONDS + 0.5):
        await reader.swarm.sync_log(key)
    assert held(reader, key) == held(honest, key)
    assert len(held(reader, key)) == 2
    await trio.sleep(ENTRIES_OWED_SECONDS)
    sessions = [peer.sessions for peer in reader.swarm.statistics().peers]
    assert sorted(sessions) == [1, 2]  # dropped, and dialed again


async def test_a_claim_about_the_own_feed_that_is_not_kept_holds_up_its_author_a_moment_and_once(
    clock: MockClock, make_node: MakeNode, internet: MemoryInternet, nursery: trio.Nursery
) -> None:
    author = make_node()
    log = author.logs.create("image")
    append_many(log, 1)
    network = internet.network(NetworkSetup(identity_seed=b"f" * 32, mdns=False))
    forger = Forger(network, log.key, 1000, [], silent=True)
    serving = Serving(accept=forger.accept, found=lambda _: None)
    author.swarm.join(log.key, await nursery.start(network.serve, [LISTEN], serving))
    await author.start(nursery)
    await trio.sleep(1)
    with pytest.raises(AppendsHeld):
        append_many(log, 1)
    await trio.sleep(STALL_SECONDS)
    append_many(log, 1)
    sessions = 0
    for _ in range(int(3 * ENTRIES_OWED_SECONDS)):
        await trio.sleep(1)
        append_many(log, 1)
        sessions = author.swarm.statistics().peers[0].sessions
    assert sessions > 2  # it came again and claimed again


async def test_a_fork_stops_the_feed_and_is_nobodys_fault_but_the_authors(clock: MockClock, forgery: Forgery) -> None:
    reader = await forgery.read(2, [exchange.Runs((forgery.both,)), exchange.Fork(forgery.proof)])
    with trio.fail_after(3):
        await reader.swarm.sync_log(forgery.log.key)
    log = reader.logs.open(forgery.log.key)
    assert log.vector() == {WriterKey(log.key): 1}
    assert [(proof.writer, proof.seq) for proof in log.forks().values()] == [(WriterKey(log.key), 1)]
    assert [peer.banned for peer in reader.swarm.statistics().peers] == [False]


async def test_a_fork_is_found_between_honest_peers_and_told_to_all(
    clock: MockClock, make_node: MakeNode, forgery: Forgery, nursery: trio.Nursery
) -> None:
    key = forgery.log.key
    one, other, third = [await make_node().start(nursery) for _ in range(3)]
    one.logs.add_remote(key).add_run(forgery.both)
    for run in (forgery.first, forgery.other_second):
        other.logs.add_remote(key).add_run(run)
    one.swarm.join(key)
    other.swarm.join(key, one.addresses)
    third.swarm.join(key, other.addresses)
    await trio.sleep(3)
    for node in (one, other, third):
        log = node.logs.open(key)
        assert log.vector() == {WriterKey(key): 1}
        assert [proof.seq for proof in log.forks().values()] == [1]
        assert not any(peer.banned for peer in node.swarm.statistics().peers)


class FullStore(MemoryStore):
    """Has no room left once `is_full`."""

    is_full = False

    def write(self, puts: Iterable[tuple[bytes, bytes]], deletes: Iterable[bytes] = (), *, durable: bool) -> None:
        if self.is_full:
            raise StoreFull("no room")
        super().write(puts, deletes, durable=durable)


async def test_a_full_store_is_told_to_who_syncs_and_not_held_against_the_peer(
    clock: MockClock,
    make_node: MakeNode,
    internet: MemoryInternet,
    nursery: trio.Nursery,
) -> None:
    author, log = await start_author(make_node, nursery, 3)
    config = SwarmConfig(identity_seed=b"r" * 32, listen=(LISTEN,), mdns=False)
    store = FullStore()
    reader = Swarm(memory_logs(store), MemoryBlocks(), config, internet.open_network)
    await nursery.start(reader.run)
    reader.join(log.key, author.addresses)
    store.is_full = True
    with trio.fail_after(5), pytest.raises(StoreFull):
        await reader.sync_log(log.key)
    assert [peer.banned for peer in reader.statistics().peers] == [False]
    assert parse_address(author.addresses[0]).peer == reader.statistics().peers[0].peer
