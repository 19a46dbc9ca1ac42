"""What a container's health checks mean, and which containers a filter means: pure."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from hyperlog.errors import Refused
from hypernode.api.container_requests import CreateContainer
from hypernode.cli.container_filters import parse_filters
from hypernode.containers.health import (
    HEALTHY,
    STARTING,
    UNHEALTHY,
    Check,
    Health,
    check_wishes,
    next_health,
    wanted_check,
)
from hypernode.moments import parse_duration
from images.version import Healthcheck

_SECOND = 10**9


def _image(*test: str, **fields: int) -> dict[str, Any]:
    return dataclasses.asdict(Healthcheck(test=test, **fields))


def _asked(**wishes: Any) -> CreateContainer:
    return CreateContainer(link="hyper://x", **wishes)


@pytest.mark.parametrize(
    ("wishes", "image", "check"),
    [
        ({}, None, None),
        ({}, _image("NONE"), None),
        ({}, _image("CMD", "a", "b"), Check(("a", "b"), 30, 30, 0, 3)),
        ({}, _image("CMD-SHELL", "a b", interval=5 * _SECOND, retries=7), Check(("/bin/sh", "-c", "a b"), 5, 30, 0, 7)),
        ({"health_retries": 1}, _image("CMD", "a", timeout=2 * _SECOND, retries=7), Check(("a",), 30, 2, 0, 1)),
        ({"health_command": "x", "health_interval": 1.5}, None, Check(("/bin/sh", "-c", "x"), 1.5, 30, 0, 3)),
        ({"health_command": ""}, _image("CMD", "a"), None),
        ({}, _image("CMD", "a", interval=1), Check(("a",), 0.1, 30, 0, 3)),  # an author's nanosecond
    ],
)
def test_which_check_is_wanted(wishes: dict[str, Any], image: dict[str, Any] | None, check: Check | None) -> None:
    found = wanted_check(_asked(**wishes), image)
    assert found == check or (
        found is not None and check is not None and found.interval == pytest.approx(check.interval)
    )


@pytest.mark.parametrize(
    "wishes",
    [
        {"health_interval": 0.0},
        {"health_interval": -1.0},
        {"health_timeout": float("nan")},
        {"health_timeout": 1e9},
        {"health_start_period": -1.0},
        {"health_retries": 0},
        {"health_retries": 10**9},
    ],
)
def test_senseless_checks_are_refused(wishes: dict[str, Any]) -> None:
    with pytest.raises(Refused):
        check_wishes(_asked(**wishes))


def test_so_many_failures_in_a_row_make_it_unhealthy_and_one_pass_healthy() -> None:
    check = Check(("x",), retries=2)
    health = Health()
    seen = []
    for passed in (False, False, False, True, False, True, False, False):
        health = next_health(health, check, 100.0, passed=passed)
        seen.append(health.status)
    assert seen == [STARTING, UNHEALTHY, UNHEALTHY, HEALTHY, HEALTHY, HEALTHY, HEALTHY, UNHEALTHY]


def test_failures_of_the_start_period_do_not_count_until_one_passed() -> None:
    check = Check(("x",), start_period=10.0, retries=1)
    assert next_health(Health(), check, 5.0, passed=False).status == STARTING
    passed = next_health(Health(), check, 5.0, passed=True)
    assert passed == Health(HEALTHY)
    assert next_health(passed, check, 6.0, passed=False).status == UNHEALTHY
    assert next_health(Health(), check, 10.0, passed=False).status == UNHEALTHY


def _row(**changes: Any) -> dict[str, Any]:
    state = {"status": "exited", "exit_code": 3, "health": "", "link": "hyper://abc"}
    row = {"id": "0123", "name": "web-1", "created": "2026-01-02T00:00:00Z", "labels": {"job": "x"}, "image": "shop"}
    return {**row, "state": state, "config": {"link": "mine"}, **changes}


@pytest.mark.parametrize(
    ("filters", "fits"),
    [
        ((), True),
        (("name=web",), True),
        (("name=^eb",), False),
        (("name=db", "name=web"), True),
        (("name=web", "id=99"), False),
        (("label=job", "label=job=x"), True),
        (("label=job", "label=other"), False),
        (("status=running", "status=exited"), True),
        (("exited=3",), True),
        (("exited=0",), False),
        (("health=none",), True),
        (("ancestor=hyper://ab",), True),
        (("ancestor=mine",), True),
        (("ancestor=shop",), True),
        (("ancestor=sho",), False),
        (("until=2026-01-03",), True),
        (("until=2026-01-01",), False),
    ],
)
def test_filters(filters: tuple[str, ...], fits: bool) -> None:
    assert parse_filters(filters, 0.0)(_row()) is fits


@pytest.mark.parametrize("text", ["", "name", "name=", "colour=red", "name=(", "until=soon"])
def test_no_filters(text: str) -> None:
    with pytest.raises(Refused):
        parse_filters([text], 0.0)


def test_what_has_no_time_is_not_before_any() -> None:
    assert not parse_filters(["until=2026-01-01"], 0.0)(_row(created=""))


def test_durations() -> None:
    assert [parse_duration(text) for text in ("30", "0.5s", "1m30s", "2h")] == [30, 0.5, 90, 7200]
    for text in ("", "-1s", "1x", "soon", "1s "):
        with pytest.raises(Refused):
            parse_duration(text)
