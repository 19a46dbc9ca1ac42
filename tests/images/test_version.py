"""Versions in a log: their spelling, their limits, and what a version text means."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hyperlog.encoding import decode, encode
from hyperlog.entry import Kind
from hyperlog.errors import Corrupt, Refused
from hyperlog.ids import BlockId, ManifestId, to_text
from hyperlog.log import Log
from hyperlog.repository import open_repository
from images.catalog import Catalog
from images.errors import AmbiguousVersion, ImageTooNew, NoSuchVersion, VersionCorrupt
from images.ingest import StoredBlock
from images.manifest_store import ManifestRef
from images.version import Config, Healthcheck, ImageVersion, decode_version, is_version


def make_version(number: int = 0, **fields: Any) -> ImageVersion:
    reference = ManifestRef(ManifestId(bytes([number]) * 32), 10, (StoredBlock(BlockId(bytes(32)), 20),))
    return ImageVersion(
        manifest=reference,
        config=Config(os="linux", arch="amd64", cmd=("sh", "-c", "echo ü"), env=("A=b=c", "PATH=/bin"), workdir="/srv"),
        **fields,
    )


def test_how_to_run_survives() -> None:
    config = Config(
        os="linux",
        arch="arm64",
        volumes=("/a", "/b"),
        ports=("53/udp", "80/tcp"),
        labels=(("a.b", ""), ("c", "d\ne")),
        stop_signal="SIGRTMIN+3",
        healthcheck=Healthcheck(test=("CMD-SHELL", "true"), interval=5, timeout=6, start_period=7, retries=8),
    )
    version = replace(make_version(), config=config)
    assert decode_version(version.encode()) == version


def differing(base: ManifestRef, **fields: Any) -> ManifestRef:
    block = StoredBlock(BlockId(bytes([9]) * 32), 30)
    return replace(base, **{"id": ManifestId(bytes([7]) * 32), "pieces": (block,), "base": base, **fields})


def test_a_manifest_as_a_difference_survives() -> None:
    whole = make_version()
    version = replace(whole, manifest=differing(whole.manifest))
    assert decode_version(version.encode()) == version
    assert [block.stored_bytes for block in version.manifest.blocks] == [20, 30]
    for wrong in (
        differing(differing(whole.manifest)),
        differing(whole.manifest, pieces=whole.manifest.pieces * 2),
        differing(whole.manifest, raw_bytes=(1 << 24) + 1),
    ):
        with pytest.raises(VersionCorrupt):
            replace(whole, manifest=wrong).encode()


def test_a_version_survives() -> None:
    version = make_version(name="web", message="line\nline", created=1_700_000_000, image_bytes=5, inodes=2)
    assert decode_version(version.encode()) == version
    assert is_version(version.encode())
    assert not is_version(b"other")
    assert not is_version(encode({"something": 1}))


@pytest.mark.parametrize(
    "change",
    [
        {"user": "bad user"},
        {"user": "root\n"},
        {"workdir": "relative"},
        {"workdir": "/a/../../b"},
        {"workdir": "/proc/self/fd/7"},
        {"env": ("NOVALUE",)},
        {"env": ("A=\x1b[2J",)},
        {"cmd": ("a\0b",)},
        {"os": "Linux!"},
        {"volumes": ("data",)},
        {"volumes": ("/b", "/a")},
        {"ports": ("80",)},
        {"ports": ("80/tcp", "80/tcp")},
        {"labels": (("", "x"),)},
        {"labels": (("a\x1b", "x"),)},
        {"stop_signal": "KILL"},
        {"healthcheck": Healthcheck(test=())},
        {"healthcheck": Healthcheck(test=("CMD",))},
        {"healthcheck": Healthcheck(test=("NONE", "x"))},
        {"healthcheck": Healthcheck(test=("CMD", "x"), interval=-1)},
        {"arch": ""},
    ],
)
def test_a_hostile_configuration_is_refused(change: dict[str, Any]) -> None:
    version = make_version()
    with pytest.raises(VersionCorrupt):
        replace(version, config=replace(version.config, **change)).encode()


@pytest.mark.parametrize("fields", [{"name": "a\x1b"}, {"message": "\x07"}, {"message": "x" * 20_000}])
def test_hostile_words_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(VersionCorrupt):
        make_version(**fields).encode()


def test_a_newer_format_says_so() -> None:
    record: Any = decode(make_version().encode(), bytes_max=1 << 20)
    for change in ({"image": 99}, {"novelty": True}):
        with pytest.raises(ImageTooNew):
            decode_version(encode({**record, **change}))
    for key in record:
        with pytest.raises((Corrupt, Refused)):
            decode_version(encode({name: value for name, value in record.items() if name != key}))


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Log]:
    with open_repository(tmp_path / "home") as repository:
        yield repository.logs.create("x")


def test_a_version_text_is_a_number_or_the_beginning_of_an_id(log: Log) -> None:
    entries = [log.append(make_version(number, message=str(number)).encode()) for number in range(1, 4)]
    catalog = Catalog.of(log)
    assert [published.number for published in catalog.versions] == [1, 2, 3]
    for text in ("2", "v2", "V2", to_text(entries[1].id), to_text(entries[1].id)[:12]):
        assert catalog.resolve(text).version.message == "2"
    assert catalog.resolve().number == 3


def test_what_is_not_there_is_said_not_to_be(log: Log) -> None:
    with pytest.raises(NoSuchVersion, match="no image version"):
        Catalog.of(log).resolve()
    log.append(make_version().encode())
    for text in ("2", "v0", "latest", "yyyyyyyyyyyy"):
        with pytest.raises((NoSuchVersion, AmbiguousVersion)):
            Catalog.of(log).resolve(text)


def test_an_unsound_version_hurts_only_who_asks_for_it(log: Log) -> None:
    log.append(make_version(1).encode())
    log.append(make_version(9).encode(), kind=Kind.TRACE)  # no version, whatever it says: it needs another right
    log.append(encode({"image": 1, "manifest": 7}))
    log.append(make_version(3).encode())
    catalog = Catalog.of(log)
    assert [published.error is None for published in catalog.versions] == [True, False, True]
    assert catalog.resolve().number == 3
    with pytest.raises(VersionCorrupt):
        catalog.resolve("2")


def test_what_runs() -> None:
    config = Config(os="linux", arch="amd64", entrypoint=("init", "-x"), cmd=("serve",))
    assert config.argv(None, ()) == ("init", "-x", "serve")
    assert config.argv(None, ("sh",)) == ("init", "-x", "sh")
    assert config.argv("", ("sh", "-c", "true")) == ("sh", "-c", "true")
    assert config.argv("bash", ()) == ("bash",)
