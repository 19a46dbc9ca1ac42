"""Logs come to the same state, and only what is valid is taken."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

import pytest
import trio
from trio.testing import MockClock

from hyperlog.errors import NoProvider, StoreFull
from hyperlog.ids import EntryId, LogKey, WriterKey, discovery_key
from hyperlog.log import Log, Logs
from swarm.addresses import parse_address
from swarm.errors import ConnectionLost
from swarm.network import Network, NetworkSetup, Serving, Stream
from swarm.replication.messages import NONCE_BYTES
from swarm.replication.session import Session, VectorCame
from swarm.swarm import Swarm, SwarmConfig
from swarm.testing import MemoryBlocks, MemoryInternet
from tests.swarm.support import LISTEN, Node

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
    return [entry.id for _, entry in node.logs.open(key).changes()]


@pytest.mark.parametrize("count", [0, 1, 3, 600])
async def test_sync_brings_all_there_is(
    count: int, clock: MockClock, make_node: MakeNode, nursery: trio.Nursery
) -> None:
    author, log = await start_author(make_node, nursery, count)
    reader = await make_node().start(nursery)
    reader.swarm.join(log.key, author.addresses)
    with trio.fail_after(5):
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
    """Goes through the handshake for `log`, claims `claimed` entries of its owner and sends `batches`."""

    def __init__(self, network: Network, key: LogKey, claimed: int, batches: Sequence[Sequence[bytes]]) -> None:
        self._network = network
        self._logs = {discovery_key(key): key}
        self._vector = {WriterKey(key): claimed}
        self._batches = batches

    async def accept(self, stream: Stream) -> None:
        session = Session.respond(
            self._logs.get,
            local=self._network.peer_id,
            remote=stream.remote,
            nonce=os.urandom(NONCE_BYTES),
            decoy=bytes(32),
        )
        with suppress(ConnectionLost):
            while data := await stream.receive_some():
                for event in session.receive(data):
                    if isinstance(event, VectorCame):
                        session.send_vector(self._vector, answer=event.question)
                        for batch in self._batches:
                            session.send_entries(batch)
                await stream.send_all(session.take_output())
        await stream.close()


@dataclass
class Forgery:
    """A log with two entries, one that contradicts the second, one of another log, and who sends what of it."""

    log: Log
    first: bytes
    second: bytes
    other_second: bytes
    foreign: bytes
    read: Callable[..., Awaitable[Node]]
    """(number of entries claimed, batches) → a reader who knows only the forger."""


@pytest.fixture
def forgery(
    make_node: MakeNode, make_logs: Callable[..., Logs], internet: MemoryInternet, nursery: trio.Nursery
) -> Forgery:
    logs = make_logs()
    log = logs.create("image")
    append_many(log, 2)
    first, second = [entry.encoded for _, entry in log.changes()]
    twin = make_logs(same_keys_as=logs).add_remote(log.key)
    twin.add_all([first])
    append_many(twin, 1)

    async def read(claimed: int, batches: Sequence[Sequence[bytes]]) -> Node:
        network = internet.network(NetworkSetup(identity_seed=b"f" * 32, mdns=False))
        forger = Forger(network, log.key, claimed, batches)
        serving = Serving(accept=forger.accept, found=lambda _: None)
        addresses = await nursery.start(network.serve, [LISTEN], serving)
        reader = await make_node(give_up_seconds=4).start(nursery)
        reader.swarm.join(log.key, addresses)
        return reader

    elsewhere = make_logs().create("other")
    foreign = elsewhere.append(b"of another log").encoded
    return Forgery(log, first, second, twin.get(twin.heads()[0]).encoded, foreign, read)


def flipped(data: bytes, position: int) -> bytes:
    return data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :]


@pytest.mark.parametrize(
    ("forge", "banned"),
    [
        (lambda f: [f.first[:-1]], True),
        (lambda f: [flipped(f.first, 20)], True),  # in the signature
        (lambda f: [flipped(f.first, len(f.first) - 1)], True),
        (lambda f: [b""], True),
        (lambda f: [f.foreign], True),
        (lambda f: [f.first, f.second + b"x"], True),
        (lambda f: [f.second], False),
    ],
    ids=["cut", "bad signature", "bad value", "empty", "other log", "half a good batch", "gap"],
)
async def test_a_forged_batch_is_not_taken(
    forge: Callable[[Forgery], list[bytes]], banned: bool, clock: MockClock, forgery: Forgery
) -> None:
    reader = await forgery.read(1, [forge(forgery)])
    with pytest.raises(NoProvider):
        await reader.swarm.sync_log(forgery.log.key)
    assert held(reader, forgery.log.key) == []
    (peer,) = reader.swarm.statistics().peers
    assert peer.banned == banned
    assert peer.fault is not None


async def test_a_claim_that_is_not_kept_does_not_hold_up_a_sync(
    clock: MockClock, make_node: MakeNode, forgery: Forgery, nursery: trio.Nursery
) -> None:
    key = forgery.log.key
    reader = await forgery.read(1000, [])
    honest = await make_node().start(nursery)
    honest.logs.add_remote(key).add_all([forgery.first, forgery.second])
    honest.swarm.join(key)
    reader.swarm.join(key, honest.addresses)
    with trio.fail_after(3.5):
        await reader.swarm.sync_log(key)
    assert held(reader, key) == held(honest, key)
    assert len(held(reader, key)) == 2


async def test_a_fork_stops_the_log_but_is_nobodys_fault_but_the_authors(clock: MockClock, forgery: Forgery) -> None:
    reader = await forgery.read(3, [[forgery.first, forgery.second], [forgery.other_second]])
    with trio.fail_after(3):
        await reader.swarm.sync_log(forgery.log.key)
    assert len(held(reader, forgery.log.key)) == 1
    assert [peer.banned for peer in reader.swarm.statistics().peers] == [False]


class FullLogs:
    """Logs whose store has no room left."""

    def __init__(self, logs: Logs) -> None:
        self._logs = logs

    def add_remote(self, key: LogKey, /) -> FullLog:
        return FullLog(self._logs.add_remote(key))


class FullLog:
    def __init__(self, log: Log) -> None:
        self.length = log.length
        self.vector = log.vector
        self.feed = log.feed
        self.changes = log.changes
        self.subscribe = log.subscribe

    def add_all(self, encoded: Sequence[bytes]) -> list[object]:
        raise StoreFull("no room")


async def test_a_full_store_is_told_to_who_syncs_and_not_held_against_the_peer(
    clock: MockClock,
    make_node: MakeNode,
    internet: MemoryInternet,
    make_logs: Callable[..., Logs],
    nursery: trio.Nursery,
) -> None:
    author, log = await start_author(make_node, nursery, 3)
    config = SwarmConfig(identity_seed=b"r" * 32, listen=(LISTEN,), mdns=False)
    reader = Swarm(FullLogs(make_logs()), MemoryBlocks(), config, internet.network)  # type: ignore[arg-type]
    await nursery.start(reader.run)
    reader.join(log.key, author.addresses)
    with trio.fail_after(5), pytest.raises(StoreFull):
        await reader.sync_log(log.key)
    assert [peer.banned for peer in reader.statistics().peers] == [False]
    assert parse_address(author.addresses[0]).peer == reader.statistics().peers[0].peer
