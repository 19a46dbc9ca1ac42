"""What is left of a log that somebody else made when a crash takes all that was not synced."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest

from hyperlog.errors import NotFound
from hyperlog.log import Logs
from hyperlog.run import encode_run
from hyperlog.store import MemoryStore
from tests.hyperlog.replicas import Home


class Journal(MemoryStore):
    """A store that writes in order, and syncs all that was written when it syncs."""

    def __init__(self) -> None:
        super().__init__()
        self._writes: list[tuple[list[tuple[bytes, bytes]], list[bytes]]] = []
        self._synced = 0

    def write(self, puts: Iterable[tuple[bytes, bytes]], deletes: Iterable[bytes] = (), *, durable: bool) -> None:
        self._writes.append((list(puts), list(deletes)))
        super().write(*self._writes[-1], durable=durable)
        if durable:
            self._synced = len(self._writes)

    def crashed(self) -> MemoryStore:
        """What is found afterwards."""
        left = MemoryStore()
        for puts, deletes in self._writes[: self._synced]:
            left.write(puts, deletes, durable=True)
        return left


def test_a_crash_leaves_a_log_with_its_record_or_nothing_of_it(tmp_path: Path) -> None:
    theirs = Home(tmp_path / "theirs").logs.create("log")
    theirs.append_many([b"one", b"two"])
    assert theirs.writer is not None
    here, journal = Home(tmp_path / "here"), Journal()

    def after_a_crash() -> Logs:
        return Logs(journal.crashed(), here.marks, tmp_path / "here/keys")

    replica = Logs(journal, here.marks, tmp_path / "here/keys").add_remote(theirs.key)
    assert list(journal.crashed().items(b"")) == []  # nothing was synced for a log of which nothing is here
    with pytest.raises(NotFound):
        after_a_crash().open(theirs.key)
    replica.add_run(encode_run(theirs.run(theirs.writer, 0)))
    found = after_a_crash().open(theirs.key)
    assert (found.ends(), found.name, found.writer) == (theirs.ends(), None, None)
