"""Replicas in memory, and exchanges between them without a network."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path

from hyperlog.entry import Evidence, Kind, encode_header, sign_head
from hyperlog.hashing import blake3_256
from hyperlog.ids import EntryId, LogKey, WriterKey
from hyperlog.keys import KeyPair
from hyperlog.log import Log, Logs
from hyperlog.merkle import peaks_of, root
from hyperlog.replication import Replication
from hyperlog.run import Item, Run, encode_run
from hyperlog.selection import ALL, Selection
from hyperlog.store import MemoryStore
from hyperlog.watermarks import Watermarks
from hyperlog.writers import Rights

_FRAMES_MAX = 20_000


class Home:
    """One node's logs, in memory but for the secret keys."""

    def __init__(self, path: Path) -> None:
        path.mkdir(parents=True, exist_ok=True)
        self.path = path
        self.store = MemoryStore()
        self.marks = Watermarks(path / "marks")
        self.marks.leave_to_guard()
        self.marks.close()  # nothing is written to it any more
        self.logs = Logs(self.store, self.marks, path / "keys")

    def copy(self, path: Path) -> Home:
        """The same home a second time: store, secret keys and all."""
        other = Home(path)
        other.store.write(list(self.store.items(b"")), durable=True)
        if (self.path / "keys").exists():
            shutil.copytree(self.path / "keys", path / "keys")
        return other

    def reopen(self) -> None:
        """Forget all that is not stored."""
        self.logs = Logs(self.store, self.marks, self.path / "keys")


def two(tmp_path: Path) -> tuple[Log, Log]:
    """A log and an empty replica of it."""
    log = Home(tmp_path / "a").logs.create("log")
    return log, Home(tmp_path / "b").logs.add_remote(log.key)


def team(tmp_path: Path, count: int, rights: Rights = Rights.WRITE) -> list[Log]:
    """Replicas of one log, the owner first, that all may write and know it."""
    owner = Home(tmp_path / "0").logs.create("log")
    replicas = [owner]
    for number in range(1, count):
        home = Home(tmp_path / str(number))
        home.logs.add_remote(owner.key)
        owner.grant(home.logs.ask_to_write(owner.key), rights)
        replicas.append(home.logs.open(owner.key))
    for other in replicas[1:]:
        sync(owner, other)
    return replicas


def standing(log: Log) -> object:
    """What two replicas that agree have in common; limits of feeds that count nowhere are known only to some."""
    policy = log.policy
    known = {WriterKey(log.key), *(admission.key for admission in policy.admissions.values())}
    limits = {writer: limit for writer, limit in policy.limits.items() if writer in known}
    return log.ends(), log.heads(), policy.owner, dict(policy.admissions), limits


def only_seed(home: Path) -> bytes:
    """The one secret key of a home."""
    (found,) = sorted((home / "keys").iterdir())
    return found.read_bytes()


class Line:
    """Two ends and what is on the way between them."""

    def __init__(self, one: Replication, other: Replication) -> None:
        self.ends = (one, other)
        self.frames = 0
        self.round_trips = 0
        """How often the line was quiet until something had arrived."""

    def run(self) -> None:
        """Carry frames until nobody has anything to say."""
        one, other = self.ends
        while True:
            there = _drain(one)
            for frame in there:
                other.receive(frame)
            back = _drain(other)
            for frame in back:
                one.receive(frame)
            self.frames += len(there) + len(back)
            if not there and not back:
                return
            self.round_trips += 1
            assert self.frames < _FRAMES_MAX

    def close(self) -> None:
        for end in self.ends:
            end.close()


def _drain(end: Replication) -> list[bytes]:
    frames: list[bytes] = []
    while (frame := end.next_frame()) is not None:
        frames.append(frame)
    return frames


def sync(one: Log, other: Log, *, selection: Selection = ALL) -> Line:
    """A finite exchange, `selection` being what `other` wants; ends when both are done."""
    line = Line(Replication(one, pull=selection is ALL), Replication(other, selection=selection))
    line.run()
    assert all(end.is_done for end in line.ends)
    line.close()
    return line


def sync_slowly(one: Log, other: Log, chance: random.Random, *, cut: Callable[[], bool] = lambda: False) -> bool:
    """A finite exchange frame by frame in a random order of the two directions; False when `cut` ended it early."""
    ends = (Replication(one), Replication(other))
    ways: tuple[list[bytes], list[bytes]] = ([], [])
    try:
        while True:
            moved = False
            for side in chance.sample((0, 1), 2):
                frame = ends[side].next_frame() if chance.random() < 0.7 else None
                if frame is not None:
                    ways[side].append(frame)
                    moved = True
                if ways[side] and chance.random() < 0.7:
                    ends[1 - side].receive(ways[side].pop(0))
                    moved = True
            if cut():
                return False
            if not moved and not any(ways) and all(end.is_done for end in ends):
                return True
    finally:
        for end in ends:
            end.close()


def forge_feed(
    pair: KeyPair, log: LogKey, values: list[bytes], links: tuple[EntryId, ...] | None = None
) -> tuple[Run, list[EntryId]]:
    """A validly signed feed of `pair` from its start, made without a log: what a hostile or copied writer sends."""
    prev = EntryId(bytes(32))
    ids: list[EntryId] = []
    items: list[Item] = []
    for seq, value in enumerate(values):
        linked = (prev,) if seq else links or ()
        header = encode_header(log, pair.public, seq, Kind.VALUE, prev, linked, len(value), blake3_256(value))
        prev = EntryId(blake3_256(header))
        ids.append(prev)
        items.append((Kind.VALUE, None if seq else linked, value))
    signature = sign_head(pair, log, len(ids), root(peaks_of(ids)))
    return Run(log, pair.public, 0, EntryId(bytes(32)), len(ids), signature, (), items), ids


def forge(pair: KeyPair, log: LogKey, values: list[bytes]) -> bytes:
    return encode_run(forge_feed(pair, log, values)[0])


def evidence_of_one(pair: KeyPair, log: LogKey, identifier: EntryId) -> Evidence:
    """The evidence of a feed's only entry."""
    return Evidence(1, sign_head(pair, log, 1, identifier), ())


def values(log: Log) -> list[bytes]:
    return [entry.value for _, entry in log.changes()]


def done(line: Line) -> bool:
    return all(end.is_done for end in line.ends)


def agree(*logs: Log) -> bool:
    return all(standing(log) == standing(logs[0]) for log in logs)
