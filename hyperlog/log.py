"""All logs of a store, and the secret keys under which this node writes."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from hyperlog.encoding import decode, encode
from hyperlog.errors import Corrupt, NotFound, Refused, StoreDamaged
from hyperlog.feeds import Feeds
from hyperlog.ids import LogKey, WriterKey, to_text
from hyperlog.keys import KeyPair, read_secret, remove_secret, write_secret
from hyperlog.limits import NAME_CHARACTERS_MAX
from hyperlog.lineage import Lineage
from hyperlog.replica import Log
from hyperlog.store import Store
from hyperlog.view import read_state
from hyperlog.watermarks import Watermarks

__all__ = ["Log", "Logs", "check_marks", "read_state"]

_LOG_RECORD_BYTES_MAX: Final = 4096


class Logs:
    """The logs of one store. Secrets stay in 0600 files under `keys`, one per key, named by the public key."""

    def __init__(self, store: Store, marks: Watermarks, keys: Path, lineage: Lineage | None = None) -> None:
        self._store = store
        self._marks = marks
        self._keys = keys
        self._lineage = lineage
        self._open: dict[LogKey, Log] = {}

    def create(self, name: str | None = None) -> Log:
        """A new log with a new key pair, which stays in a 0600 file. Raises `Refused` for an impossible name."""
        _check_name(name)
        pair = self._new_pair()
        if self._lineage is not None:
            self._lineage.confirm(LogKey(pair.public))  # made just now: no other copy of its feed can exist
        return self._register(LogKey(pair.public), name, None)

    def add_remote(self, key: LogKey) -> Log:
        """The log `key`, empty so far unless it is here already."""
        if self._store.get(b"l" + key) is None:
            # Whatever is kept of the log is written behind this, so nothing outlives a crash that this does not.
            self._store.write([(b"l" + key, encode({"name": None}))], durable=False)
        return self.open(key)

    def open(self, key: LogKey) -> Log:
        """The log `key`. Raises `NotFound`."""
        log = self._open.get(key)
        if log is None:
            record = self._store.get(b"l" + key)
            if record is None:
                raise NotFound(f"no log {to_text(key)} here")
            name, writer = _decode_log(record)
            pair = self._pair(WriterKey(key) if writer is None else writer)
            log = Log(key, name, pair, self._store, self._marks, self._lineage)
            self._open[key] = log
        return log

    def list(self) -> list[Log]:
        """Every log here, in key order."""
        return [self.open(LogKey(key[1:])) for key, _ in self._store.items(b"l")]

    def named(self, name: str) -> Log | None:
        """The writable log that was made with `name`, if any."""
        return next((log for log in self.list() if log.name == name and log.writer is not None), None)

    def ask_to_write(self, key: LogKey) -> WriterKey:
        """Make a key under which this node will write to the log `key`; tell it to the owner, who can `grant` it.

        The key that is there already, if any. Raises `NotFound` when the log is not here.
        """
        log = self.open(key)
        if log.writer is not None and log.policy.limit(log.writer) > log.vector().get(log.writer, 0):
            return log.writer
        pair = self._new_pair()
        self._register(key, log.name, pair.public)
        if self._lineage is not None:
            self._lineage.confirm(key)
        log.write_as(pair)
        return pair.public

    def rotate(self, key: LogKey) -> WriterKey:
        """Go on writing to the log `key` under a new key, which gets the rights of this one. Raises as `Log.append`.

        The secret of the old one is deleted: with it one could only sign a second history of a feed that has ended.
        """
        log = self.open(key)
        before = log.writer
        pair = self._new_pair()
        log.rotate(pair)
        # A crash in between leaves the old key in force here; its feed has ended, and asking again makes a new one.
        self._register(key, log.name, pair.public)
        if before is not None and all(other.writer != before for other in self.list()):
            remove_secret(self._keys / to_text(before))
        return pair.public

    def key_pair(self, key: LogKey) -> KeyPair:
        """The pair under which this node writes to the log, for export (key_export.py). Raises `NotFound`."""
        log = self.open(key)
        pair = None if log.writer is None else self._pair(log.writer)
        if pair is None:
            raise NotFound(f"no secret key for log {to_text(key)} here")
        return pair

    def import_key(self, key: LogKey, pair: KeyPair) -> Log:
        """Write to the log `key` under `pair`, brought from another machine; that one must not go on writing.

        Appends are refused until the feed is known to be current (`Log.confirm`): sync with a peer first.
        """
        log = self.add_remote(key)
        self._keys.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self._pair(pair.public) is None:
            write_secret(self._keys / to_text(pair.public), pair.seed)
        self._register(key, log.name, None if bytes(pair.public) == bytes(key) else pair.public)
        log.write_as(pair)
        return log

    def _new_pair(self) -> KeyPair:
        self._keys.mkdir(mode=0o700, parents=True, exist_ok=True)
        pair = KeyPair.generate()
        write_secret(self._keys / to_text(pair.public), pair.seed)
        return pair

    def _register(self, key: LogKey, name: str | None, writer: WriterKey | None) -> Log:
        record: dict[str, str | bytes | None] = {"name": name}
        if writer is not None:
            record["writer"] = writer
        self._store.write([(b"l" + key, encode(record))], durable=True)
        return self.open(key)

    def _pair(self, writer: WriterKey) -> KeyPair | None:
        try:
            pair = KeyPair.from_seed(read_secret(self._keys / to_text(writer)))
        except NotFound:
            return None
        if pair.public != writer:
            raise Corrupt(f"the secret key file of {to_text(writer)} holds another key", "restore it from a backup")
        return pair


def check_marks(store: Store, marks: Watermarks) -> None:
    """Compare `store` with what was acknowledged. Raises `StoreDamaged` when it holds less or something else."""
    for log, mark in marks.all().items():
        state = read_state(store, log)
        if state.changes < mark.changes:
            raise StoreDamaged(
                f"log {to_text(log)} has {state.changes} entries in the store, but {mark.changes} were acknowledged",
                "nothing was changed; copy the store before you try to repair it",
            )
        change = Feeds(store, log).change_at(mark.changes) if mark.changes else None
        if mark.changes and (change is None or change.last != mark.changes or change.digest != mark.digest):
            raise StoreDamaged(f"log {to_text(log)} holds other entries than those that were acknowledged")


def _check_name(name: str | None) -> None:
    if name is not None and not (0 < len(name) <= NAME_CHARACTERS_MAX and name.isprintable()):
        raise Refused(f"a name has 1 to {NAME_CHARACTERS_MAX} printable characters")


def _decode_log(record: bytes) -> tuple[str | None, WriterKey | None]:
    match decode(record, bytes_max=_LOG_RECORD_BYTES_MAX):
        case {"name": str() | None as name, **rest} if set(rest) <= {"writer"}:
            writer = rest.get("writer")
            if writer is None or isinstance(writer, bytes):
                return name, None if writer is None else WriterKey(writer)
    raise StoreDamaged("the record of a log cannot be read")
