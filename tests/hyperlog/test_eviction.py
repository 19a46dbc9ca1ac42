"""Blocks that are evicted, and the room they give back."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from hyperlog.blocks import BlockStore
from hyperlog.errors import BlockMissing
from hyperlog.ids import BlockId
from hyperlog.store import MemoryStore


def _used(directory: Path) -> int:
    return sum(path.stat().st_blocks * 512 for path in directory.glob("*.pack"))


def test_what_is_evicted_is_gone_and_its_room_is_given_back(tmp_path: Path) -> None:
    blocks = BlockStore(tmp_path, MemoryStore(), pack_bytes_max=1 << 20)
    payloads = [os.urandom(60_000) for _ in range(64)]
    names = [blocks.put_new(payload) for payload in payloads]
    blocks.sync()
    before = _used(tmp_path)
    blocks.evict(names[::2])
    given = blocks.reclaim()
    assert given >= 32 * 60_000
    assert before - _used(tmp_path) == given
    assert [blocks.get(name) for name in names[1::2]] == payloads[1::2]
    for name in names[::2]:
        with pytest.raises(BlockMissing):
            blocks.get(name)
    assert list(blocks.set_aside()) == []
    assert blocks.reclaim() == 0
    assert blocks.put_new(payloads[0]) == names[0]
    assert blocks.get(names[0]) == payloads[0]
    blocks.close()


def test_a_reader_of_an_evicted_block_finds_it_missing_and_not_rotten(tmp_path: Path) -> None:
    """Eviction between looking a place up and reading it."""
    store = MemoryStore()
    blocks = BlockStore(tmp_path, store)
    name = blocks.put_new(b"x" * 5000)

    class Slow(MemoryStore):
        def get(self, key: bytes) -> bytes | None:
            found = store.get(key)
            if found is not None:
                blocks.evict([name])
                blocks.reclaim()
            return found

    late = BlockStore(tmp_path, Slow())
    with pytest.raises(BlockMissing, match="evicted"):
        late.get(name)
    late.close()
    blocks.close()


def test_puts_go_on_while_room_is_given_back(tmp_path: Path) -> None:
    blocks = BlockStore(tmp_path, MemoryStore(), pack_bytes_max=1 << 20)
    kept: list[tuple[BlockId, bytes]] = []

    def put() -> None:
        for _ in range(300):
            payload = os.urandom(5000)
            kept.append((blocks.put_new(payload), payload))
            blocks.evict([blocks.put_new(os.urandom(5000))])

    threads = [threading.Thread(target=put) for _ in range(2)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        blocks.reclaim()
    for thread in threads:
        thread.join()
    assert [blocks.get(name) for name, _ in kept] == [payload for _, payload in kept]
    blocks.close()
