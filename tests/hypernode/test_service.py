"""The systemd unit: sound, hardened where it can be, and the daemon tells when it is ready."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Final

import pytest

from hypernode.service import MARK, UNUSED_CAPABILITIES, make_unit
from tests.support.nodes import PATIENCE_SECONDS, Node, running
from tests.support.sources import TOP

EXPOSURE_MAX: Final = 90
"""Tenths, as systemd counts; 96 is a service without any hardening."""


def install(*arguments: str, before: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "hypernode", *before, "install-service", *arguments]
    return subprocess.run(argv, cwd=TOP, check=False, capture_output=True, text=True)


def test_what_is_installed_can_be_looked_at_and_removed(tmp_path: Path) -> None:
    unit, config = tmp_path / "etc/systemd/system/hypernode.service", tmp_path / "etc/hypernode/config.toml"
    shown = json.loads(install("--system", "--root", str(tmp_path), "--dry-run", "--json").stdout)["files"]
    assert [one["path"] for one in shown] == [str(unit), str(config)]
    assert not unit.exists()
    done = install("--system", "--root", str(tmp_path))
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "start it:  systemctl enable --now hypernode")
    assert [one["text"] for one in shown] == [unit.read_text(), config.read_text()]
    assert tomllib.loads(config.read_text()) == {"home": "/var/lib/hypernode/home", "state": "/var/lib/hypernode/state"}
    config.write_text("mdns = false")
    assert install("--system", "--root", str(tmp_path), "--json").returncode == 0
    assert config.read_text() == "mdns = false", "what people wrote is kept"
    assert json.loads(install("--system", "--root", str(tmp_path), "--uninstall", "--json").stdout) == {
        "removed": [str(unit)]
    }
    assert (unit.exists(), config.exists()) == (False, True)
    assert "nothing to remove" in install("--system", "--root", str(tmp_path), "--uninstall").stderr


def test_what_others_wrote_is_not_overwritten(tmp_path: Path) -> None:
    unit = tmp_path / "etc/systemd/system/hypernode.service"
    unit.parent.mkdir(parents=True)
    unit.write_text("[Unit]\n")
    for words in ((), ("--uninstall",)):
        done = install("--system", "--root", str(tmp_path), *words)
        assert (done.returncode, unit.read_text()) == (5, "[Unit]\n")
        assert "was not written by hypernode\n  hint: " in done.stderr
    assert install("--system", "--user").returncode == 4


def test_the_command_line_of_the_unit_is_quoted(tmp_path: Path) -> None:
    argv = ["/opt/a b/hypernode", "--config", '/etc/50%/$x"', "daemon"]
    lines = make_unit(argv, state="/var/lib/hypernode").splitlines()
    assert 'ExecStart="/opt/a b/hypernode" --config "/etc/50%%/$$x\\"" daemon' in lines
    assert lines[0] == MARK
    unit = tmp_path / "hypernode.service"
    unit.write_text("\n".join(lines))
    shown = install("--user", "--dry-run", before=("--config", "relative.toml")).stdout
    assert f"--config {TOP}/relative.toml daemon" in shown


def test_systemd_understands_the_units(tmp_path: Path) -> None:
    if not shutil.which("systemd-analyze"):
        pytest.skip("there is no systemd-analyze")
    for state in ("/var/lib/hypernode", None):
        unit = tmp_path / "hypernode.service"
        unit.write_text(make_unit([sys.executable, "-m", "hypernode", "daemon"], state=state))
        argv = ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", str(unit)]
        done = subprocess.run(argv, check=False, capture_output=True, text=True)
        assert (done.returncode, [line for line in done.stderr.splitlines() if "hypernode" in line]) == (0, [])
    unit.write_text(make_unit(["/bin/true"], state="/var/lib/hypernode"))
    argv = ["systemd-analyze", "security", "--offline=true", f"--threshold={EXPOSURE_MAX}", str(unit)]
    done = subprocess.run(argv, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_the_capabilities_that_are_taken_away_are_called_so() -> None:
    header = Path("/usr/include/linux/capability.h")
    if not header.exists():
        pytest.skip("there are no kernel headers")
    known = dict(
        line.split()[1:3]
        for line in header.read_text().splitlines()
        if line.startswith("#define CAP_") and "(" not in line
    )
    assert {name: known[name] for name in UNUSED_CAPABILITIES} == {
        name: str(number) for name, number in UNUSED_CAPABILITIES.items()
    }


def test_the_daemon_tells_its_service_manager_when_it_is_ready_and_when_it_stops(tmp_path: Path) -> None:
    path = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(os.fspath(path))
        manager.settimeout(PATIENCE_SECONDS)
        node = Node(tmp_path / "home", environment={"NOTIFY_SOCKET": str(path)})
        with running(node.start("daemon", "--listen", "/ip4/127.0.0.1/tcp/0")) as process:
            assert manager.recv(4096) == b"READY=1"
            assert process.stdout is not None
            assert process.stdout.readline().startswith("ready ")
            process.send_signal(signal.SIGTERM)
            assert manager.recv(4096) == b"STOPPING=1"
            process.communicate(timeout=PATIENCE_SECONDS)
            assert process.returncode == 0
