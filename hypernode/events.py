"""What happened in a home: a short memory, and a file that outlives the node.

An event is a type, an action, whom it is about, and attributes, as Docker's are:

    image      share, fork, commit, pull, tag, untag, pin, unpin, checkout, export   link
    boot       start (milliseconds of each stage), end (what it moved)               link
    mount      mount, unmount                                                        directory
    volume     destroy                                                               its name
    store      collect                                                               "store"
    seed       add, fetch, complete, fail, remove                                    link
    peer       connect, disconnect, ban                                              peer id
    node       start, stop (of daemons)                                              home
    container  create, start, die, …: Docker's                                       container id

Emitting never waits and never fails: events are for people and monitors, and a full disk must not stop a container.
The last `EVENTS_REMEMBERED` are in memory. The file `events.jsonl` takes a line each; at `EVENTS_FILE_BYTES_MAX` it
becomes `events.1.jsonl` and a new one begins. Lines are not synced: a power cut may take the last of them.

Who follows asks again and again for what came after the last event it knows. So there is no queue for anybody, and a
follower that is too slow misses the oldest, not the newest.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path
from typing import Any, Final, Self

import trio

from hyperlog.errors import Refused
from hypernode.limits import (
    EVENT_ATTRIBUTE_CHARS_MAX,
    EVENT_ATTRIBUTES_MAX,
    EVENTS_FILE_BYTES_MAX,
    EVENTS_REMEMBERED,
)

_log: Final = logging.getLogger("hypernode.events")
_KEYS: Final = ("type", "event", "id", "container", "image", "label")


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened. `time_nano`: nanoseconds since 1970, larger for each event, so it also names it."""

    time_nano: int
    type: str
    action: str
    id: str
    attributes: Mapping[str, str] = field(default_factory=dict)

    def fields(self) -> dict[str, Any]:
        """As JSON has it."""
        return {
            "time": self.time_nano // 1_000_000_000,
            "time_nano": self.time_nano,
            "type": self.type,
            "action": self.action,
            "id": self.id,
            "attributes": dict(self.attributes),
        }


class EventFilter:
    """Which events somebody wants: values of one key are alternatives, keys must all fit (Docker's rule).

    Keys: type, event (the action), id (a prefix), container (id prefix or name), image (link), label (KEY or
    KEY=VALUE among the attributes). Raises `Refused` for anything else.
    """

    def __init__(self, texts: Iterable[str] = ()) -> None:
        self._wanted: dict[str, list[str]] = {}
        for text in texts:
            key, equals, value = text.partition("=")
            if key not in _KEYS or not equals:
                raise Refused(f"{text!r} filters nothing", f"KEY=VALUE, where KEY is one of {', '.join(_KEYS)}")
            self._wanted.setdefault(key, []).append(value)

    def passes(self, event: Event) -> bool:
        return all(any(_fits(event, key, value) for value in values) for key, values in self._wanted.items())


def _fits(event: Event, key: str, value: str) -> bool:
    match key:
        case "type":
            return event.type == value
        case "event":
            return event.action == value
        case "id":
            return event.id.startswith(value)
        case "container":
            is_meant = event.id.startswith(value) or event.attributes.get("name") == value
            return event.type == "container" and is_meant
        case "image":
            return value in (event.attributes.get("image"), event.id if event.type in ("image", "boot") else None)
        case _:
            name, equals, wanted = value.partition("=")
            return name in event.attributes and (not equals or event.attributes[name] == wanted)


class EventLog:
    """The events of one home; closed at the end. Used from the node's own thread only, but for `read_history`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._recent: deque[Event] = deque(maxlen=EVENTS_REMEMBERED)
        self._last = 0
        self._begun = time.time_ns()
        self._grown = trio.Event()
        self._file: int | None = None
        self._is_writing = True
        self.counts: Counter[tuple[str, str]] = Counter()
        """How often each (type, action) happened since the node started."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def emit(self, type_: str, action: str, identity: str, /, **attributes: object) -> Event:
        """Something happened now. Attributes become text, bounded; None is left out."""
        self._last = max(time.time_ns(), self._last + 1)
        told = {name: str(value)[:EVENT_ATTRIBUTE_CHARS_MAX] for name, value in attributes.items() if value is not None}
        event = Event(
            self._last,
            type_,
            action,
            identity[:EVENT_ATTRIBUTE_CHARS_MAX],
            dict(list(told.items())[:EVENT_ATTRIBUTES_MAX]),
        )
        self._recent.append(event)
        self.counts[type_, action] += 1
        self._write(event)
        if _log.isEnabledFor(logging.INFO):
            _log.info("%s %s %s", type_, action, identity, extra={"event": event.fields()})
        self._grown.set()
        self._grown = trio.Event()
        return event

    def recent(self, after: int = 0) -> list[Event]:
        """What is in memory and newer than `after` (`time_nano`), oldest first."""
        newer = list(takewhile(lambda event: event.time_nano > after, reversed(self._recent)))
        return newer[::-1]

    async def wait_after(self, after: int) -> list[Event]:
        """The events after `after`, at least one: waits for it."""
        while not (found := self.recent(after)):
            await self._grown.wait()
        return found

    def read_history(self, since: int) -> list[Event]:
        """Every event at or after `since` that is known, oldest first; reads the files for what memory has not."""
        recent = list(self._recent)
        before = recent[0].time_nano if recent else None
        if since >= (self._begun if before is None or len(recent) < EVENTS_REMEMBERED else before):
            return [event for event in recent if event.time_nano >= since]
        found = [
            event
            for path in (self._older, self._path)
            for event in _read(path)
            if event.time_nano >= since and (before is None or event.time_nano < before)
        ]
        return [*found, *(event for event in recent if event.time_nano >= since)]

    @property
    def _older(self) -> Path:
        return self._path.with_suffix(".1.jsonl")

    def _write(self, event: Event) -> None:
        line = json.dumps(event.fields(), separators=(",", ":")).encode() + b"\n"
        try:
            if self._file is None:
                self._file = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
            os.write(self._file, line)
            if os.fstat(self._file).st_size > EVENTS_FILE_BYTES_MAX:
                self._close()
                self._path.replace(self._older)
            self._is_writing = True
        except OSError as error:
            if self._is_writing:
                _log.warning("events cannot be written to %s: %s", self._path, error.strerror)
            self._is_writing = False

    def _close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None


def _read(path: Path) -> Iterator[Event]:
    """The events in a file; what is no event (a line cut by a crash) is passed over."""
    with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
        for line in file:
            with contextlib.suppress(ValueError, LookupError, TypeError, AttributeError):
                fields = json.loads(line)
                attributes = {str(name): str(value) for name, value in fields["attributes"].items()}
                yield Event(
                    int(fields["time_nano"]), str(fields["type"]), str(fields["action"]), str(fields["id"]), attributes
                )
