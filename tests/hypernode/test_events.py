"""What a home remembers of what happened, and who hears of it."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from hyperlog.errors import Refused
from hypernode.events import Event, EventFilter, EventLog
from hypernode.limits import EVENT_ATTRIBUTE_CHARS_MAX, EVENTS_FILE_BYTES_MAX, EVENTS_REMEMBERED
from hypernode.moments import parse_moment


async def test_the_next_node_reads_what_the_last_one_wrote(tmp_path: Path) -> None:
    with EventLog(tmp_path / "events.jsonl") as events:
        first = events.emit("container", "start", "abc", image="hyper://k", code=None)
        second = events.emit("container", "die", "abc", exitCode=0)
    assert first.time_nano < second.time_nano
    with EventLog(tmp_path / "events.jsonl") as events:
        third = events.emit("node", "start", "/home")
        assert events.read_history(0) == [first, second, third]
        assert events.read_history(second.time_nano) == [second, third]
        assert events.read_history(second.time_nano + 1) == [third]
        assert events.read_history(third.time_nano) == [third]
        assert events.read_history(third.time_nano + 1) == []
        assert events.recent() == [third]
    assert first.attributes == {"image": "hyper://k"}
    assert (tmp_path / "events.jsonl").stat().st_mode & 0o777 == 0o600


def test_a_cut_or_damaged_line_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    with EventLog(path) as events:
        first = events.emit("node", "start", "/home")
    path.write_bytes(path.read_bytes() + b'[]\n{"time_nano":"x"}\n\xff\n{"time_na')
    with EventLog(path) as events:
        assert events.read_history(0) == [first]


def test_memory_and_disk_are_bounded(tmp_path: Path) -> None:
    with EventLog(tmp_path / "events.jsonl") as events:
        for number in range(3 * EVENTS_FILE_BYTES_MAX // 1024):
            last = events.emit("peer", "connect", str(number), long="x" * 5000)
        assert len(events.recent()) == EVENTS_REMEMBERED
        assert events.read_history(0)[-1] == last
    assert len(last.attributes["long"]) == EVENT_ATTRIBUTE_CHARS_MAX
    sizes = [path.stat().st_size for path in tmp_path.iterdir()]
    assert len(sizes) == 2
    assert sum(sizes) < 2.1 * EVENTS_FILE_BYTES_MAX


async def test_what_cannot_be_written_is_remembered_all_the_same(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with EventLog(tmp_path / "absent" / "events.jsonl") as events:
        one, two = (events.emit("node", "start", "x") for _ in range(2))
        assert events.read_history(0) == [one, two]
    assert len(caplog.records) == 1


async def test_a_follower_waits_for_the_next_one(tmp_path: Path, autojump_clock: MockClock) -> None:
    with EventLog(tmp_path / "events.jsonl") as events:
        heard: list[Event] = []

        async def follow() -> None:
            while len(heard) < 3:
                heard.extend(await events.wait_after(heard[-1].time_nano if heard else 0))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(follow)
            await wait_all_tasks_blocked()
            sent = [events.emit("node", action, "x") for action in ("start", "stop")]
            await wait_all_tasks_blocked()
            sent.append(events.emit("node", "start", "x"))
    assert heard == sent


@pytest.mark.parametrize(
    ("filters", "passes"),
    [
        ([], True),
        (["type=container"], True),
        (["type=image", "type=container"], True),
        (["type=container", "event=start"], False),
        (["id=ab"], True),
        (["container=web"], True),
        (["container=abcd"], False),
        (["image=hyper://k"], True),
        (["label=team"], True),
        (["label=team=a"], False),
        (["label=team=b", "event=die"], True),
    ],
)
def test_filters_are_as_dockers(filters: list[str], passes: bool) -> None:
    event = Event(1, "container", "die", "abc", {"name": "web", "image": "hyper://k", "team": "b"})
    assert EventFilter(filters).passes(event) is passes


@pytest.mark.parametrize("text", ["", "type", "colour=red", "=x"])
def test_what_filters_nothing_is_refused(text: str) -> None:
    with pytest.raises(Refused, match="filters nothing"):
        EventFilter([text])


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("10m", 9400),
        ("1h30m", 4600),
        ("0.5s", 9999.5),
        ("1700000000.25", 1700000000.25),
        ("1970-01-02", 86400),
        ("1970-01-01T00:01:00Z", 60),
        ("1970-01-01T01:00:00+01:00", 0),
    ],
)
def test_moments(text: str, seconds: float) -> None:
    assert parse_moment(text, 10_000) == seconds


@pytest.mark.parametrize("text", ["", "soon", "1y", "10m ", "-5m", "2026-13-01", "9" * 400])
def test_what_is_no_moment_is_refused(text: str) -> None:
    with pytest.raises(Refused):
        parse_moment(text, 0)
