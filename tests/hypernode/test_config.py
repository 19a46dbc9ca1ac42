"""Flags over environment over files over defaults, and where each value came from."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path

import pytest

from hyperlog.errors import HyperError, NotFound, Refused
from hypernode.config import Chosen, Config, Source, choose, make_config
from hypernode.config_files import BYTES_MAX
from hypernode.home import default_home
from hypernode.setting_values import BadSetting
from hypernode.settings import BY_NAME, DEFAULT_LISTEN, SETTINGS, Kind
from hypernode.settings_template import make_template
from swarm.finding import Finding
from swarm.reach import ReachSetup

NODE = "/ip4/192.0.2.7/tcp/4001/p2p/12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN"
NOWHERE = Path("/nonexistent/config.toml")


def config_of(environment: Mapping[str, str], **flags: object) -> Config:
    """Without any file."""
    given = {name.replace("_", "-"): value for name, value in flags.items()}
    return make_config({"XDG_CONFIG_HOME": "/nonexistent", **environment}, given, system=NOWHERE)


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("environment", "home"),
    [
        ({"HYPERNODE_HOME": "/a"}, "/a"),
        ({"HYPERNODE_HOME": "/a", "XDG_DATA_HOME": "/b"}, "/a"),
        ({"XDG_DATA_HOME": "/b"}, "/b/hypernode"),
        ({"HYPERNODE_HOME": ""}, default_home({})),
    ],
)
def test_the_home_comes_from_the_environment(environment: dict[str, str], home: str) -> None:
    assert str(config_of(environment).home) == home


def test_without_anything_there_are_defaults() -> None:
    config = config_of({})
    assert (config.listen, config.mdns, config.read_deadline, config.budget) == (DEFAULT_LISTEN, True, 30.0, None)
    assert (config.finding, config.reach) == (Finding(), ReachSetup())


def test_each_source_goes_before_the_weaker_ones(tmp_path: Path) -> None:
    system = write(
        tmp_path / "etc/config.toml", "# ours\nread-deadline = 1\nmdns = false\n\ndht = false\nremember = false"
    )
    user = write(tmp_path / "xdg/hypernode/config.toml", 'mdns = true\n"dht" = true\nlisten = ["/ip4/1.2.3.4/tcp/1"]\n')
    environment = {"XDG_CONFIG_HOME": str(tmp_path / "xdg"), "HYPERNODE_DHT": "off", "HYPERNODE_READ_DEADLINE": "3"}
    chosen = choose(environment, {"read-deadline": 9.0, "punch": False, "listen": []}, system=system)
    assert chosen["remember"] == Chosen(False, Source.FILE, f"{system}:6")
    assert chosen["mdns"] == Chosen(True, Source.FILE, f"{user}:1")
    assert chosen["listen"] == Chosen(("/ip4/1.2.3.4/tcp/1",), Source.FILE, f"{user}:3")
    assert chosen["dht"] == Chosen(False, Source.VARIABLE, "HYPERNODE_DHT")
    assert chosen["read-deadline"] == Chosen(9.0, Source.FLAG, "--read-deadline")
    assert chosen["punch"] == Chosen(False, Source.FLAG, "--no-punch")
    assert chosen["upnp"] == Chosen(True, Source.DEFAULT)


def test_a_named_file_is_read_instead_of_the_others(tmp_path: Path) -> None:
    system = write(tmp_path / "etc.toml", "mdns = false")
    named = write(tmp_path / "named.toml", 'dht = false\nswarm-key = "keys/swarm"')
    chosen = choose({"HYPERNODE_CONFIG": str(named)}, {}, system=system)
    assert (chosen["mdns"].source, chosen["dht"].value) == (Source.DEFAULT, False)
    assert chosen["swarm-key"].value == tmp_path / "keys/swarm"
    with pytest.raises(NotFound, match=r"no configuration file .*other\.toml"):
        choose({"HYPERNODE_CONFIG": str(named)}, {}, tmp_path / "other.toml", system=system)


def test_every_setting_can_be_set_in_every_way(tmp_path: Path) -> None:
    texts = {
        Kind.SWITCH: "on",
        Kind.SECONDS: "7",
        Kind.RATIO: "1.5",
        Kind.RATE: "2M",
        Kind.SIZE: "5G",
        Kind.COUNT: "5",
        Kind.LISTEN: "/ip4/127.0.0.1/tcp/0",
    }
    text = {one.name: texts.get(one.kind, NODE if one.kind is Kind.PEERS else f"{tmp_path}/x") for one in SETTINGS}
    text |= {one.name: one.choices[-1] for one in SETTINGS if one.choices}
    del text["upload-only"]  # not with leech-only
    variables = {BY_NAME[name].variable: value for name, value in text.items()}
    from_variables = choose(variables, {}, write(tmp_path / "empty.toml", ""))
    flags: dict[str, object] = {
        name: {Kind.SWITCH: True, Kind.SECONDS: 7.0, Kind.RATIO: 1.5, Kind.COUNT: 5}.get(BY_NAME[name].kind, value)
        for name, value in text.items()
    }
    flags |= {name: [value] for name, value in text.items() if BY_NAME[name].kind in (Kind.LISTEN, Kind.PEERS)}
    from_flags = choose({}, flags, tmp_path / "empty.toml")
    values = {name: from_variables[name].value for name in text}
    full = write(tmp_path / "full.toml", make_template(values))
    from_file = choose({}, {}, full)
    for name in text:
        assert from_variables[name].source is Source.VARIABLE
        assert from_flags[name].source is Source.FLAG
        assert from_file[name].source is Source.FILE
        assert from_flags[name].value == from_file[name].value == values[name], name
    assert full.read_text().splitlines()[int(from_file["budget"].place.rpartition(":")[2]) - 1] == "budget = 5000000000"


def test_the_template_is_a_file_that_changes_nothing() -> None:
    assert tomllib.loads(make_template()) == {}
    uncommented = [line.removeprefix("# ") for line in make_template().splitlines() if " = " in line]
    assert tomllib.loads("\n".join(uncommented)).keys() == BY_NAME.keys()


def test_how_peers_are_found_and_nodes_are_reached() -> None:
    off = {f"HYPERNODE_{name}": "off" for name in ("RENDEZVOUS", "DHT", "PEER_EXCHANGE", "REMEMBER")}
    config = config_of(off | {"HYPERNODE_BOOTSTRAP": f"{NODE}, ", "HYPERNODE_SWARM_KEY": "/k"})
    assert config.finding == Finding(bootstrap=(NODE,), rendezvous=False, dht=False, exchange=False, remembered=False)
    assert (config.swarm_key, config.lan_only, config.reach.map_ports) == (Path("/k"), False, True)
    alone = config_of({"HYPERNODE_LAN_ONLY": "on"}, swarm_key=Path("/l"))
    assert (alone.swarm_key, alone.lan_only, alone.reach.map_ports) == (Path("/l"), True, False)
    off = {f"HYPERNODE_{name}": "off" for name in ("USE_RELAYS", "PUNCH", "UPNP")}
    assert config_of(off).reach == ReachSetup(use_relays=False, punch=False, map_ports=False)
    assert config_of({}, relay=True).reach.offer_relay


@pytest.mark.parametrize(
    ("variable", "text", "words"),
    [
        ("MDNS", "perhaps", "'perhaps' is neither on nor off"),
        ("RELAY", "perhaps", "'perhaps' is neither on nor off"),
        ("BOOTSTRAP", "example.com:4001", "address"),
        ("READ_DEADLINE", "soon", "'soon' is not a number of seconds"),
        ("READ_DEADLINE", "0", "0 makes no sense"),
        ("READ_DEADLINE", "nan", "nan makes no sense"),
        ("UPLOAD_LIMIT", "-5", "no size"),
        ("UPLOAD_LIMIT", "5", "too low"),
        ("BUDGET", "much", "no size"),
    ],
)
def test_odd_variables_are_refused(variable: str, text: str, words: str) -> None:
    with pytest.raises(BadSetting, match=words) as caught:
        config_of({f"HYPERNODE_{variable}": text})
    assert caught.value.message.startswith(f"HYPERNODE_{variable}: ")
    assert caught.value.hint


@pytest.mark.parametrize(
    ("text", "line", "words", "hint"),
    [
        ("\n\nmnds = true", 3, "there is no setting 'mnds'", "did you mean mdns?"),
        ("read_deadline = 3", 1, "there is no setting 'read_deadline'", "did you mean read-deadline?"),
        ("[network]\nmdns = true", 1, "there is no setting 'network'", "without [headings]"),
        ("zzz = 1", 1, "there is no setting 'zzz'", "config show"),
        ("# x\nmdns = 1", 2, "mdns: a number is not what", "true or false"),
        ('mdns = "on"', 1, "mdns: text is not what", "true or false"),
        ("read-deadline = true", 1, "read-deadline: true or false is not", "a number"),
        ("read-deadline = -1", 1, "-1 makes no sense", "0.1 to 86400"),
        ("read-deadline = inf", 1, "inf makes no sense", "0.1 to 86400"),
        ("upload-limit = 2.5", 1, "upload-limit: a number is not", '"2M"'),
        ("budget = 0", 1, "'0' is no size", "20G"),
        ("budget = 1979-05-27", 1, "a date or time is not", "20G"),
        ('listen = "/ip4/0.0.0.0/tcp/1"', 1, "listen: text is not", "a list"),
        ("\nlisten = [1]", 2, "listen: a list is not", "a list"),
        ('bootstrap = ["/ip4/1.2.3.4/tcp/1"]', 1, "bootstrap: ", "an address looks like"),
        ('home = ""', 1, "this is no path", "file or directory"),
        ('mdns = true\nmdns = false"', 2, "", "mdns = false"),
        ('a = 1\nmdns = "\n', 2, "Illegal character", "mdns = false"),
        ("mdns =", 1, "Invalid value", "mdns = false"),
        ("x = " + "[" * 20000, 0, "far too deep", "mdns = false"),
        ("mdns.x = true", 1, "mdns: a table is not", "true or false"),
    ],
)
def test_odd_files_are_refused(tmp_path: Path, text: str, line: int, words: str, hint: str) -> None:
    path = write(tmp_path / "config.toml", text)
    with pytest.raises(BadSetting) as caught:
        choose({}, {}, path)
    assert caught.value.message.startswith(f"{path}:{line}: " if line else f"{path}:")
    assert words in caught.value.message
    assert hint in (caught.value.hint or "")


@pytest.mark.parametrize("data", [b"mdns = true\n\xff", b"#" * (BYTES_MAX + 1)])
def test_what_is_no_text_of_that_kind_is_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "config.toml"
    path.write_bytes(data)
    with pytest.raises(BadSetting, match=r"UTF-8|larger"):
        choose({}, {}, path)


def test_a_directory_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="cannot be read"):
        choose({}, {}, tmp_path)


def test_to_give_and_to_take_are_not_both_refused_to_oneself(tmp_path: Path) -> None:
    path = write(tmp_path / "config.toml", "leech-only = true")
    with pytest.raises(HyperError, match=r"config\.toml:1, --upload-only"):
        choose({}, {"upload-only": True}, path)
