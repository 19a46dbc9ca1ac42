"""Waiting for the next request awake: it costs little in vain, and nothing comes late or is lost."""

from __future__ import annotations

import os
import select
import threading
from collections.abc import Iterator
from contextlib import closing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmhost import limits
from vmhost.patience import Patience, PatientPoll

SOON = limits.BLOB_AWAKE_SECONDS / 2
LATE = limits.BLOB_AWAKE_SECONDS * 2


def play(gaps: list[tuple[bool, bool]]) -> list[bool]:
    """For each wait, whether it began awake. A gap: whether the request comes soon, and whether others displaced us."""
    patience, found = Patience(), []
    for soon, displaced in gaps:
        found.append(patience.is_awake)
        if patience.is_awake:
            patience.waited_awake(came=soon, displaced=displaced)
        else:
            patience.waited_asleep(SOON if soon else LATE)
    return found


def test_whom_requests_follow_soon_waits_awake() -> None:
    assert play([(True, False)] * 50)[2:] == [True] * 48


def test_a_single_read_is_not_waited_for() -> None:
    assert not any(play([(False, False)] * 50))


def test_one_that_comes_late_ends_it_until_some_have_come_soon() -> None:
    assert play([(True, False)] * 3 + [(False, False)] * 5 + [(True, False)] * 4)[3:] == [
        True, *[False] * 6, True, True,
    ]  # fmt: skip


def test_whoever_is_displaced_leaves_it_for_long() -> None:
    assert sum(play([(True, True)] * 1000)) <= 1000 / 50


@given(st.lists(st.tuples(st.booleans(), st.booleans()), max_size=300))
def test_what_is_waited_in_vain_is_bounded(gaps: list[tuple[bool, bool]]) -> None:
    vain = sum(awake and not soon for awake, (soon, _) in zip(play(gaps), gaps, strict=True))
    assert vain <= sum(soon for soon, _ in gaps) / 2


@pytest.fixture
def pipe() -> Iterator[tuple[PatientPoll, int, int]]:
    reading, writing = os.pipe()
    with closing(select.epoll()) as ready:
        ready.register(reading, select.EPOLLIN)
        yield PatientPoll(ready), reading, writing
    os.close(reading)
    os.close(writing)


def test_what_is_there_is_found_awake_and_asleep(pipe: tuple[PatientPoll, int, int]) -> None:
    patient, reading, writing = pipe
    for _ in range(100):
        os.write(writing, b"x")
        assert patient.wait() == [(reading, select.EPOLLIN)]
        assert os.read(reading, 2) == b"x"


def test_what_comes_at_any_time_is_waited_for(pipe: tuple[PatientPoll, int, int]) -> None:
    patient, reading, writing = pipe
    asked = threading.Semaphore(0)

    def answer() -> None:
        for number in range(300):
            asked.acquire()
            if number % 3 == 0:
                threading.Event().wait(number % 7 * limits.BLOB_AWAKE_SECONDS / 3)
            os.write(writing, bytes([number % 256]))

    thread = threading.Thread(target=answer)
    thread.start()
    for number in range(300):
        asked.release()
        assert patient.wait() == [(reading, select.EPOLLIN)]
        assert os.read(reading, 2) == bytes([number % 256])
    thread.join()
