"""Tables of hot blobs: named alike by whoever has the log, derived when a peer asks."""

from __future__ import annotations

from pathlib import Path

from hyperlog.ids import BlockId, ManifestId
from hyperlog.repository import open_repository
from hypernode.tables import finder
from images.ingest import StoredBlock
from images.trace import Trace, runs_of
from swarm.replication.tables import TableId


async def test_a_hot_blobs_table_is_found_in_the_log(tmp_path: Path) -> None:
    hot = tuple(StoredBlock(BlockId(bytes([number]) * 32), 100 + number) for number in range(2))
    trace = Trace(ManifestId(bytes(32)), bytes(32), "x", runs_of(range(20)), hot)
    with open_repository(tmp_path) as repository:
        log = repository.logs.create("log")
        log.append(b"something else")
        find = finder(repository)
        assert await find(log.key, TableId(trace.hot_id)) is None
        log.append(trace.encode())
        assert await find(log.key, TableId(trace.hot_id)) == [tuple(block) for block in hot]
        assert await find(log.key, TableId(bytes(32))) is None
