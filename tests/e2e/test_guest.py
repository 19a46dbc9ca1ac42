"""HyperOS through the real command: built from Debian's packages, and booted on its own under QEMU.

Guests are kept under ~/.cache/hypernode-tests; each machine has a state directory of its own test. Under emulation and
load a boot takes a minute, so every wait is long.
"""

from __future__ import annotations

import io
import json
import os
import re
import shlex
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from images.compression import ZstdStream
from tests.support.guest import GUESTS, INCLUDE, built_guest, environment, hypernode
from tests.support.nodes import wait_until
from vmhost.guest import build
from vmhost.guest.limits import GUEST_BYTES_MAX
from vmhost.guest.packages import Archive
from vmhost.guest.pool import Pool
from vmhost.guest.recipe import recipe
from vmhost.machines.platforms import host_arch

pytestmark = [pytest.mark.slow]
BOOT_SECONDS = "240"
_NOBODY = 65534


@pytest.fixture(scope="session")
def fast(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return built_guest("fast", tmp_path_factory.mktemp("guest"))


@pytest.fixture(scope="session")
def systemd(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return built_guest("systemd", tmp_path_factory.mktemp("guest"))


def _unpacked(initrd: Path, directory: Path) -> Path:
    """The tree in a packed initrd, as busybox's cpio unpacks it."""
    packed = ZstdStream(io.BytesIO(initrd.read_bytes()))
    archive = b"".join(iter(lambda: packed.read(1 << 20), b""))
    directory.mkdir()
    command = ["busybox", "cpio", "-i", "-d", "-H", "newc"]
    subprocess.run(command, input=archive, capture_output=True, check=True, cwd=directory)
    return directory


@pytest.mark.real("busybox", "apt-get")
def test_both_profiles_have_what_they_promise(fast: dict[str, Any], systemd: dict[str, Any], tmp_path: Path) -> None:
    trees = {}
    for guest in (fast, systemd):
        assert guest["packed_bytes"] <= GUEST_BYTES_MAX
        assert guest["packed_bytes"] == sum(guest["files"][name]["bytes"] for name in ("vmlinux.zst", "initrd.zst"))
        tree = trees[guest["profile"]] = _unpacked(Path(guest["initrd"]), tmp_path / guest["profile"])
        for program in ("usr/bin/systemd-nspawn", "usr/sbin/dropbear", "usr/sbin/hyper-agent", "usr/bin/busybox"):
            assert os.access(tree / program, os.X_OK), program
        modules = {path.name for path in tree.rglob("*.ko")}
        assert {f"{name}.ko" for name in ("overlay", "erofs", "virtio_blk", "virtio_net", "fuse", "loop")} <= modules
        assert stat.S_IMODE((tree / "root").stat().st_mode) == 0o700
        assert re.fullmatch(r"root:\*:.*\n", (tree / "etc/shadow").read_text())
        broken = [path for path in tree.rglob("*") if path.is_symlink() and not _leads_somewhere(tree, path)]
        assert [str(path.relative_to(tree)) for path in broken if path.name not in ("mtab", "resolv.conf")] == []
    assert not (trees["fast"] / "usr/lib/systemd/systemd").exists()
    assert os.readlink(trees["systemd"] / "init") == "usr/lib/systemd/systemd"
    assert (trees["systemd"] / "etc/motd").read_text() == INCLUDE["etc/motd"]
    told = json.loads(hypernode(["guest", "ls", "--json"], environment()).stdout)
    assert {guest["profile"] for guest in told if guest["current"]} == {"fast", "systemd"}
    shown = json.loads(hypernode(["guest", "info", "--profile", "systemd", "--json"], environment()).stdout)
    assert (shown["include"], "systemd-container" in shown["packages"]) == (True, True)


def _leads_somewhere(tree: Path, link: Path) -> bool:
    target = os.readlink(link)
    return os.path.lexists(tree / target.lstrip("/") if target.startswith("/") else link.parent / target)


@pytest.mark.real("setpriv", "apt-get")
def test_another_user_gets_the_same_bytes_in_place_of_damaged_ones(fast: dict[str, Any]) -> None:
    """A user without rights, whose cache has the packages and a damaged guest of the same name."""
    with tempfile.TemporaryDirectory() as scratch:
        cache = Path(scratch, "hypernode", "guests")
        for name in ("debs", "kernels", f"apt-{fast['arch']}", fast["name"]):
            shutil.copytree(GUESTS / name, cache / name)
        with (cache / fast["name"] / "initrd.zst").open("r+b") as file:
            file.seek(1000)
            file.write(b"damage")
        os.chmod(scratch, 0o755)
        for place in [Path(scratch), *Path(scratch).rglob("*")]:
            os.chown(place, _NOBODY, _NOBODY)
        # It may read what root may, because tests run from root's directory; it may not do anything else.
        right = "-all,+dac_read_search"
        rights = [f"--inh-caps={right}", "--ambient-caps=+dac_read_search", f"--bounding-set={right}"]
        user = ["setpriv", f"--reuid={_NOBODY}", f"--regid={_NOBODY}", "--clear-groups", *rights]
        env = environment(XDG_CACHE_HOME=scratch, HOME=scratch, HYPERNODE_HOME=scratch, TMPDIR=scratch)
        done = hypernode(["guest", "build", "--json"], env, prefix=user)
        assert done.returncode == 0, done.stderr
        assert "putting the guest together" in done.stderr
        made = json.loads(done.stdout)
        assert (made["name"], made["files"]) == (fast["name"], fast["files"])
        assert Path(made["initrd"]).stat().st_uid == _NOBODY
        again = hypernode(["guest", "build"], env, prefix=user)
        assert "putting" not in again.stderr


@pytest.mark.real("apt-get")
async def test_the_guest_of_the_other_architecture(tmp_path: Path) -> None:
    """Its files, all of them of that architecture; packing them would take as long again."""
    other = {"amd64": "arm64", "arm64": "amd64"}[host_arch()]
    wanted = recipe(other, "systemd")
    GUESTS.mkdir(parents=True, exist_ok=True)
    archive = Archive(tmp_path / "apt", other, None)
    packages = await archive.resolve(wanted.packages, wanted.unwanted, print)
    debs = await archive.download(packages, GUESTS / "debs", print)
    own = build.read_overlay(wanted.files, own_modes=False)
    with Pool(debs, tmp_path) as pool:
        release, kernel = build.make_kernel(pool, other)
        initrd, modules = build.make_initrd(pool, wanted, own, None)
    assert release.endswith(f"-cloud-{other}")
    assert len(kernel) > 20 << 20
    assert {"virtio_blk", "erofs", "overlay"} <= set(modules)
    # Identification, type, machine, version 1: other bytes that begin like an ELF file do not go on like one.
    headers = re.finditer(rb"\x7fELF\x02\x01\x01.{9}[\x01-\x03]\x00(?P<machine>..)\x01\x00\x00\x00", initrd, re.DOTALL)
    machines = {header["machine"] for header in headers}
    assert machines == {(183 if other == "arm64" else 62).to_bytes(2, "little")}


@dataclass
class _Booted:
    """A running machine and the command line that talks to it."""

    env: dict[str, str]
    state: Path

    def run(self, *arguments: str, expect: int | None = 0) -> str:
        done = hypernode(["guest", *arguments], self.env)
        assert expect is None or done.returncode == expect, (arguments, done.returncode, done.stdout, done.stderr)
        return done.stdout + (done.stderr if done.returncode else "")

    def sh(self, script: str, expect: int = 0) -> str:
        return self.run("run", "--name", "box", "sh", "-c", script, expect=expect)


@contextmanager
def _booted(tmp_path: Path, *options: str) -> Iterator[_Booted]:
    env = environment(XDG_STATE_HOME=str(tmp_path), HYPERNODE_HOME=str(tmp_path / "home"))
    machine = _Booted(env, tmp_path / "hypernode" / "machines" / "box")
    try:
        machine.run("boot", "--name", "box", "--accel", "tcg", "--timeout", BOOT_SECONDS, *options)
        yield machine
    finally:
        hypernode(["guest", "kill", "--name", "box"], env)


@pytest.mark.real("qemu", "ssh", "apt-get")
def test_a_machine_is_booted_used_and_halted(fast: dict[str, Any], tmp_path: Path) -> None:
    port = _free_port()
    with _booted(tmp_path, "--port", f"{port}:80") as machine:
        status = json.loads(machine.run("status", "--name", "box", "--json"))
        assert (status["running"], status["accelerator"], status["profile"]) == (True, "tcg", "fast")
        assert "runs already" in machine.run("boot", "--name", "box", expect=5)
        ip = json.loads(machine.run("ip", "--name", "box", "--json"))
        assert ip["inside"] == [{"device": "eth0", "address": "10.0.2.15/24"}]
        assert (ip["ssh"], ip["ports"]) == (f"127.0.0.1:{status['port']}", [f"127.0.0.1:{port}:80/tcp"])
        assert f"127.0.0.1:{port} leads to its port 80/tcp" in machine.run("ip", "--name", "box")
        answer = machine.sh("echo through >/tmp/page; nc -l -p 80 </tmp/page >/dev/null & echo listens")
        assert answer == "listens\n"
        assert _read_from(port) == "through\n"
        assert [one["name"] for one in json.loads(machine.run("ps", "--json"))] == ["box"]

        # Who it is and who may log in came on the kernel's command line; the network by DHCP.
        assert machine.sh("hostname; cat /etc/hostname") == "box\nbox\n"
        key = (machine.state / "key.pub").read_text()
        assert machine.sh("cat ~/.ssh/authorized_keys; stat -c %a ~/.ssh/authorized_keys") == f"{key}600\n"
        assert "10.0.2.15/24" in machine.sh("ip address")
        assert machine.sh("cat /etc/resolv.conf").startswith("nameserver ")
        assert machine.sh("exit 7", expect=7) == ""
        assert machine.sh("printf '%s|' \"$@\" -- 'a  b' '$c'") == "--|a  b|$c|"

        # A key is the only way in: without it dropbear offers nothing else.
        ssh = ["ssh", "-F", "none", "-p", str(status["port"]), "-o", "StrictHostKeyChecking=no"]
        ssh += ["-o", f"UserKnownHostsFile={machine.state}/known_hosts", "-o", "IdentitiesOnly=yes", "-v"]
        refused = subprocess.run(
            [*ssh, "-i", "/dev/null", "root@127.0.0.1"], capture_output=True, text=True, check=False
        )
        assert refused.returncode == 255
        assert "Authentications that can continue: publickey\n" in refused.stderr.replace("\r", "")

        _check_odd_words(machine)
        assert (
            machine.sh(
                "for m in overlay erofs fuse loop; do grep -q $m /proc/filesystems /proc/modules || echo $m; done"
            )
            == ""
        )
        assert machine.sh("systemd-nspawn --version | head -n 1").startswith("systemd 2")

        machine.run("halt", "--name", "box", "--timeout", "120")
        assert "turned itself off" in machine.run("status", "--name", "box", expect=3)
        assert "does not run" in machine.sh("true", expect=6)
        assert "hyper: " in (machine.state / "console.log").read_text()
        machine.run("kill", "--name", "box", "--forget")
        assert not machine.state.exists()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _read_from(port: int) -> str:
    """What is said there, as soon as somebody listens in the guest: QEMU takes connections before."""
    deadline = time.monotonic() + 120
    while True:
        with socket.create_connection(("127.0.0.1", port), timeout=60) as stream, suppress(ConnectionError):
            said = stream.makefile("rb").readline()
            if said or time.monotonic() > deadline:
                return said.decode()
        time.sleep(0.2)


def _check_odd_words(machine: _Booted) -> None:
    """What is missing or odd changes nothing, and runs nothing."""
    odd = (
        "quiet",
        "",
        'host= sshkey=""',
        'host=$(touch${IFS}/odd) sshkey="$(touch /odd)"',
        'host=-a sshkey="ssh-ed25519 short"',
        'sshkey="command=touch ssh-ed25519 AAAA" host="two words"',
        'sshkey="unended host=x',
        "host=" + "a" * 64,
        "ghost=other xsshkey=1 host =",
    )
    script = "mkdir -p /run/hyper; cd /run/hyper\n"
    script += "apply() { printf '%s\\n' \"$1\" > words; /usr/lib/hyper/set-ssh-auth-key; }\n"
    script += "".join(f"apply {shlex.quote(words)}; hostname; ls -d /odd 2>/dev/null\n" for words in odd)
    assert machine.sh(f"{script} wc -l < ~/.ssh/authorized_keys") == "box\n" * len(odd) + "1\n"
    changed = (
        "printf '%s\\n' 'quiet host=first host=last' > /run/hyper/words; /usr/lib/hyper/set-ssh-auth-key; hostname"
    )
    assert machine.sh(changed) == "last\n"


@pytest.mark.real("qemu", "ssh", "apt-get")
def test_systemd_is_pid_1_and_the_overlay_is_there(systemd: dict[str, Any], tmp_path: Path) -> None:
    with _booted(tmp_path, "--profile", "systemd") as machine:
        assert machine.sh("cat /proc/1/comm") == "systemd\n"
        waiting = "for i in $(seq 600); do systemctl is-active -q overlay-mark && break; sleep 0.2; done"
        assert machine.sh(f"{waiting}; cat /run/overlay-mark; cat /etc/motd") == "started\n" + INCLUDE["etc/motd"]
        assert machine.sh("systemctl --failed --no-legend --plain") == ""
        order = machine.sh("systemctl show -p After,Before set-ssh-auth-key.service")
        assert "network-pre.target" in order.partition("Before=")[2]
        assert machine.sh("hostname; systemctl is-active dropbear") == "box\nactive\n"
        machine.run("halt", "--name", "box", "--timeout", "120")
        assert "turned itself off" in machine.run("status", "--name", "box", expect=3)


@pytest.mark.real("qemu", "ssh", "apt-get")
def test_what_does_not_come_up_is_ended_with_its_last_words(fast: dict[str, Any], tmp_path: Path) -> None:
    env = environment(XDG_STATE_HOME=str(tmp_path), HYPERNODE_HOME=str(tmp_path / "home"))
    options = ["guest", "boot", "--name", "box", "--accel", "tcg"]
    done = hypernode(
        [*options, "--timeout", BOOT_SECONDS, "--append", "rdinit=/missing", "--append", "init=/missing"], env
    )
    assert done.returncode == 6, done.stderr
    assert "the machine box ended: the guest's kernel panicked: " in done.stderr
    assert "the console last said: " in done.stderr
    assert "panic" in done.stderr
    done = hypernode([*options, "--timeout", "1"], env)
    assert done.returncode == 6, done.stderr
    assert "did not come up within 1 s" in done.stderr
    assert _status(env)["running"] is False
    assert _status(env)["ended"] == "it was ended from here"


@pytest.mark.real("qemu", "ssh", "apt-get")
def test_a_killed_keeper_takes_its_machine_along(fast: dict[str, Any], tmp_path: Path) -> None:
    env = environment(XDG_STATE_HOME=str(tmp_path), HYPERNODE_HOME=str(tmp_path / "home"))
    command = [sys.executable, "-m", "hypernode", "guest", "boot", "--name", "box", "--accel", "tcg"]
    running = tmp_path / "hypernode" / "machines" / "box" / "running.json"
    with subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True, stdin=subprocess.DEVNULL) as booting:
        wait_until(lambda: running.exists() or booting.poll() is not None, "the machine runs", 120)
        keeper = json.loads(running.read_text())
        os.kill(keeper["pid"], signal.SIGKILL)
        _, said = booting.communicate(timeout=120)
    assert booting.returncode == 6
    assert "its keeper ended" in said
    wait_until(lambda: _has_ended(keeper["qemu_pid"]), "QEMU has gone", 120)
    assert _status(env)["running"] is False


def _has_ended(pid: int) -> bool:
    """Whether it is gone, or waits for somebody to collect it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def _status(env: dict[str, str]) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(hypernode(["guest", "status", "--name", "box", "--json"], env).stdout)
    return told
