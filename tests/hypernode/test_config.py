"""Flags over environment over defaults."""

from __future__ import annotations

from pathlib import Path

import pytest

from hyperlog.errors import Refused
from hypernode.config import DEFAULT_LISTEN, make_config
from hypernode.home import default_home
from swarm.finding import Finding
from swarm.reach import ReachSetup


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
    assert default_home(environment) == home


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


def test_how_peers_are_found_comes_from_both() -> None:
    node = "/ip4/192.0.2.7/tcp/4001/p2p/12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN"
    off = {f"HYPERNODE_{name}": "off" for name in ("RENDEZVOUS", "DHT", "PEER_EXCHANGE", "REMEMBER")}
    config = make_config(off | {"HYPERNODE_BOOTSTRAP": f"{node}, ", "HYPERNODE_SWARM_KEY": "/k"})
    assert config.finding == Finding(
        bootstrap=(node,), rendezvous=False, dht=False, exchange=False, remembered=False, answers=False
    )
    assert (config.swarm_key, config.lan_only, config.reach.map_ports) == (Path("/k"), False, True)
    flags = make_config(off, rendezvous=True, dht=True, exchange=True, remembered=True, bootstrap=(node,))
    assert flags.finding == Finding(bootstrap=(node,))
    alone = make_config({"HYPERNODE_LAN_ONLY": "on"}, swarm_key=Path("/l"))
    assert (alone.swarm_key, alone.lan_only, alone.reach.map_ports) == (Path("/l"), True, False)


def test_how_a_node_is_reached_comes_from_both() -> None:
    off = {f"HYPERNODE_{name}": "off" for name in ("USE_RELAYS", "PUNCH", "UPNP")}
    assert make_config({}).reach == ReachSetup()
    assert make_config(off).reach == ReachSetup(use_relays=False, punch=False, map_ports=False)
    assert make_config(off, use_relays=True, punch=True, map_ports=True).reach == ReachSetup()
    assert make_config({"HYPERNODE_RELAY": "on"}).reach.offer_relay
    assert make_config({}, relay=True).reach.offer_relay


@pytest.mark.parametrize(
    "environment",
    [
        {"HYPERNODE_MDNS": "perhaps"},
        {"HYPERNODE_RELAY": "perhaps"},
        {"HYPERNODE_DHT": "maybe"},
        {"HYPERNODE_BOOTSTRAP": "example.com:4001"},
        {"HYPERNODE_READ_DEADLINE": "soon"},
        {"HYPERNODE_READ_DEADLINE": "0"},
        {"HYPERNODE_READ_DEADLINE": "nan"},
    ],
)
def test_odd_values_are_refused(environment: dict[str, str]) -> None:
    with pytest.raises(Refused):
        make_config(environment)
