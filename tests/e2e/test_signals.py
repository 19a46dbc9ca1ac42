"""Signals as people and shells send them, to commands that stay and to those that have hardly begun."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.nodes import Node, daemon, wait_until
from tests.support.sources import TOP

pytestmark = pytest.mark.slow

_NOHUP = ("env", "--ignore-signal=HUP")


def test_a_daemon_under_nohup_outlives_its_terminal(tmp_path: Path) -> None:
    node = Node(tmp_path / "home")
    with daemon(node, wrapper=_NOHUP) as serving:
        serving.process.send_signal(signal.SIGHUP)
        for _ in range(2):
            assert node.status()["pid"] == serving.process.pid
        assert serving.process.poll() is None


def test_a_terminal_that_goes_takes_its_daemon_along(tmp_path: Path) -> None:
    with daemon(Node(tmp_path / "home")) as serving:
        serving.process.send_signal(signal.SIGHUP)
        wait_until(lambda: serving.process.poll() is not None, "the daemon has ended")
        assert serving.process.returncode == 0


def test_interrupted_while_it_imports_a_command_says_nothing() -> None:
    # Its import is where the interrupt comes, each time: one module is found by somebody who sends it.
    code = (
        "import os, signal, sys\n"
        "class Finder:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'hypernode.cli.main': os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.meta_path.insert(0, Finder())\n"
        "sys.argv = ['hypernode', 'images']\n"
        "from hypernode.cli.entry import main; main()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=TOP, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def test_a_daemon_tells_what_it_waits_for_and_goes_on(tmp_path: Path) -> None:
    node, told = Node(tmp_path / "home"), tmp_path / "told"
    wrapper = ("sh", "-c", f'exec "$@" 2>{told}', "sh")
    with daemon(node, wrapper=wrapper) as serving:
        serving.process.send_signal(signal.SIGUSR2)
        wait_until(lambda: "supervise" in told.read_text(), "its tasks are told")
        assert "Current thread" in told.read_text()
        assert node.status()["pid"] == serving.process.pid
    assert "serve_socket" in told.read_text()
