"""Built guests are checked before they are used, and what is wrong is said."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from hyperlog.errors import Refused
from tests.support.guest import hypernode
from vmhost.errors import GuestDamaged, GuestMissing, GuestSourceBad
from vmhost.guest.build import read_overlay, recipe_digest
from vmhost.guest.cache import find_guest, guests, is_current, remove_guest, unused_guests
from vmhost.guest.limits import INCLUDE_FILES_MAX
from vmhost.guest.recipe import recipe
from vmhost.guest.tree import Directory, File, Link

RECIPE = recipe("amd64", "fast")
OURS = recipe_digest(RECIPE, read_overlay(RECIPE.files, own_modes=False))


def _guest(cache: Path, digest: str, *, ours: bool = True) -> Path:
    directory = cache / f"amd64-fast-{digest}"
    directory.mkdir(parents=True)
    files = {}
    for name in ("vmlinux", "vmlinux.zst", "initrd.zst"):
        (directory / name).write_bytes(name.encode() * 100)
        content = (directory / name).read_bytes()
        files[name] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    info = {
        "format": 2,
        "arch": "amd64",
        "profile": "fast",
        "digest": digest,
        "recipe": OURS if ours else "of another version",
        "kernel_release": "6.1.0-1-cloud-amd64",
        "files": files,
        "packages": {"busybox-static": "1"},
        "modules": ["virtio"],
        "include": False,
    }
    (directory / "guest.json").write_text(json.dumps(info))
    link = cache / "amd64-fast"
    link.unlink(missing_ok=True)
    link.symlink_to(directory.name)
    return directory


def test_the_last_one_built_is_found_and_removed(tmp_path: Path) -> None:
    with pytest.raises(GuestMissing) as missing:
        find_guest("amd64", "fast", tmp_path)
    assert "hypernode guest build --arch amd64 --profile fast" in (missing.value.hint or "")
    older, newer = _guest(tmp_path, "a" * 12), _guest(tmp_path, "b" * 12)
    found = find_guest("amd64", "fast", tmp_path)
    assert (found.kernel, found.initrd) == (newer / "vmlinux", newer / "initrd.zst")
    assert found.info.packed_bytes == 100 * len("vmlinux.zst" + "initrd.zst")
    assert [is_current(guest, tmp_path) for guest in guests(tmp_path)] == [False, True]
    remove_guest(older.name, tmp_path)
    remove_guest("amd64-fast", tmp_path)
    assert list(tmp_path.iterdir()) == []
    for name in ("amd64-fast", "..", "/", "."):
        with pytest.raises(GuestMissing):
            remove_guest(name, tmp_path)


def test_guests_of_other_versions_are_not_used_and_removed(tmp_path: Path) -> None:
    other = _guest(tmp_path, "a" * 12, ours=False)
    with pytest.raises(GuestMissing, match="another version"):
        find_guest("amd64", "fast", tmp_path)
    ours, saved, last = _guest(tmp_path, "b" * 12), _guest(tmp_path, "c" * 12, ours=False), other
    damaged = _guest(tmp_path, "d" * 12, ours=False)
    (damaged / "guest.json").write_text("{}")
    link = tmp_path / "amd64-fast"
    link.unlink()
    link.symlink_to(last.name)
    assert find_guest("amd64", "fast", tmp_path).kernel.parent == ours
    assert unused_guests(tmp_path, {"c" * 12}) == [other.name, damaged.name]
    for name in unused_guests(tmp_path, {"c" * 12}):
        remove_guest(name, tmp_path)
    assert sorted(tmp_path.iterdir()) == [ours, saved]


@pytest.mark.parametrize("name", ["vmlinux", "initrd.zst", "vmlinux.zst"])
@pytest.mark.parametrize("how", ["flipped", "short", "long", "gone"])
def test_a_damaged_file_is_refused(tmp_path: Path, name: str, how: str) -> None:
    path = _guest(tmp_path, "c" * 12) / name
    content = bytearray(path.read_bytes())
    content[50] ^= 1
    changed = {"flipped": bytes(content), "short": path.read_bytes()[:-1], "long": path.read_bytes() + b"x"}
    path.unlink()
    if how in changed:
        path.write_bytes(changed[how])
    with pytest.raises(GuestDamaged) as damaged:
        find_guest("amd64", "fast", tmp_path)
    assert name in damaged.value.message
    assert "guest build" in (damaged.value.hint or "")


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"format": 9}', '{"format": 2, "files": {"../x": {}}}'])
def test_a_damaged_description_is_refused(tmp_path: Path, text: str) -> None:
    (_guest(tmp_path, "d" * 12) / "guest.json").write_text(text)
    with pytest.raises(GuestDamaged):
        find_guest("amd64", "fast", tmp_path)
    assert guests(tmp_path) == []


@pytest.mark.parametrize(("arch", "profile"), [("riscv64", "fast"), ("amd64", "slow"), ("../x", "fast")])
def test_odd_wishes_are_refused(tmp_path: Path, arch: str, profile: str) -> None:
    with pytest.raises(Refused):
        find_guest(arch, profile, tmp_path)


def test_an_overlay_keeps_what_it_is(tmp_path: Path) -> None:
    include = tmp_path / "include"
    (include / "usr/bin").mkdir(parents=True)
    (include / "usr/bin/tool").write_text("#!/bin/sh\n")
    (include / "usr/bin/tool").chmod(0o750)
    (include / "bin").symlink_to("usr/bin")
    nodes = dict(read_overlay([include], own_modes=True).nodes)
    assert nodes["usr/bin/tool"] == File(b"#!/bin/sh\n", 0o750)
    assert nodes["bin"] == Link("usr/bin")
    assert isinstance(nodes["usr/bin"], Directory)
    assert read_overlay([include], own_modes=True).digest() == read_overlay([include], own_modes=True).digest()
    (include / "usr/bin/tool").write_text("#!/bin/sh -e\n")
    assert dict(read_overlay([include], own_modes=False).nodes)["usr/bin/tool"] == File(b"#!/bin/sh -e\n", 0o755)


def test_odd_overlays_are_refused(tmp_path: Path) -> None:
    with pytest.raises(GuestSourceBad):
        read_overlay([tmp_path / "missing"], own_modes=True)
    for number in range(INCLUDE_FILES_MAX + 1):
        (tmp_path / str(number)).touch()
    with pytest.raises(GuestSourceBad):
        read_overlay([tmp_path], own_modes=True)


@pytest.mark.slow
def test_without_a_network_it_says_so(tmp_path: Path) -> None:
    sources = tmp_path / "nowhere.list"
    sources.write_text("deb http://127.0.0.1:1/debian bookworm main\n")
    env = {"XDG_CACHE_HOME": str(tmp_path / "cache"), "HYPERNODE_HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}
    done = hypernode(["guest", "build", "--sources", str(sources)], env)
    assert done.returncode == 6, done.stderr
    assert "the Debian mirror does not answer" in done.stderr
    assert "hint: is the network there" in done.stderr
    sources.write_text("deb http://vendor.example/apt stable main\n")
    done = hypernode(["guest", "build", "--sources", str(sources)], env)
    assert (done.returncode, "no Debian mirror" in done.stderr) == (4, True), done.stderr
