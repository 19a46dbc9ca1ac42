"""Flags over environment over defaults."""

from __future__ import annotations

from pathlib import Path

import pytest

from hyperlog.errors import Refused
from hypernode.config import DEFAULT_LISTEN, default_home, make_config


@pytest.mark.parametrize(
    ("environment", "home"),
    [
        ({"HYPERNODE_HOME": "/a"}, "/a"),
        ({"HYPERNODE_HOME": "/a", "XDG_DATA_HOME": "/b"}, "/a"),
        ({"XDG_DATA_HOME": "/b"}, "/b/hypernode"),
        ({"HYPERNODE_HOME": ""}, str(Path("~/.local/share/hypernode").expanduser())),
    ],
)
def test_the_home_comes_from_the_environment(environment: dict[str, str], home: str) -> None:
    assert default_home(environment) == Path(home)


def test_flags_win_over_the_environment() -> None:
    environment = {"HYPERNODE_LISTEN": "/ip4/1.2.3.4/tcp/1", "HYPERNODE_MDNS": "off", "HYPERNODE_READ_DEADLINE": "3"}
    from_environment = make_config(environment)
    assert from_environment.listen == ("/ip4/1.2.3.4/tcp/1",)
    assert (from_environment.mdns, from_environment.read_deadline) == (False, 3.0)
    from_flags = make_config(environment, home=Path("/h"), listen=("/ip4/5.6.7.8/tcp/2",), mdns=True, read_deadline=9)
    assert (from_flags.home, from_flags.listen) == (Path("/h"), ("/ip4/5.6.7.8/tcp/2",))
    assert (from_flags.mdns, from_flags.read_deadline) == (True, 9)


def test_without_either_there_are_defaults() -> None:
    config = make_config({})
    assert (config.listen, config.mdns, config.read_deadline) == (DEFAULT_LISTEN, True, 30.0)


@pytest.mark.parametrize(
    "environment",
    [
        {"HYPERNODE_MDNS": "perhaps"},
        {"HYPERNODE_READ_DEADLINE": "soon"},
        {"HYPERNODE_READ_DEADLINE": "0"},
        {"HYPERNODE_READ_DEADLINE": "nan"},
    ],
)
def test_odd_values_are_refused(environment: dict[str, str]) -> None:
    with pytest.raises(Refused):
        make_config(environment)
