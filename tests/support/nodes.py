"""Nodes as people run them: the `hypernode` command in processes of its own, on either end of a wire.

Homes live under a test's temporary directory, so whatever a node leaves mounted there fails the test.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.netns import Namespace
from tests.support.sources import TOP

# For what must happen, however loaded the machine is. Tests about promptness measure for themselves.
PATIENCE_SECONDS = 120.0


def wait_until(condition: Callable[[], bool], what: str, seconds: float = PATIENCE_SECONDS) -> None:
    """Poll until it holds. Raises `AssertionError` naming `what`."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
        time.sleep(0.02)


@dataclass(frozen=True)
class Node:
    """A home, and the host (network namespace) its commands run on; None: this one."""

    home: Path
    host: Namespace | None = None
    mdns: bool = False
    environment: Mapping[str, str] = field(default_factory=dict)

    def argv(self, *arguments: str, wrapper: Sequence[str] = ()) -> list[str]:
        """The whole command line. `wrapper` runs inside the namespace, around hypernode."""
        enter = self.host.enter if self.host else []
        mdns = "--mdns" if self.mdns else "--no-mdns"
        hypernode = [sys.executable, "-m", "hypernode", "--home", os.fspath(self.home), mdns]
        return [*enter, *wrapper, *hypernode, *arguments]

    def start(self, *arguments: str, wrapper: Sequence[str] = (), **options: Any) -> subprocess.Popen[str]:
        """Start a command, all its streams piped, as text."""
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen(
            self.argv(*arguments, wrapper=wrapper),
            cwd=TOP,
            env={
                **os.environ,
                "XDG_STATE_HOME": os.fspath(self.home.parent / "state"),
                "HYPERNODE_CONFIG": os.devnull,  # what this machine's files say is not tested
                **self.environment,
            },
            text=True,
            **{**pipes, **options},
        )

    def run(
        self, *arguments: str, stdin: str = "", wrapper: Sequence[str] = (), seconds: float = PATIENCE_SECONDS
    ) -> subprocess.CompletedProcess[str]:
        """Run a command to its end, whatever its exit code."""
        with self.start(*arguments, wrapper=wrapper) as process:
            try:
                out, err = process.communicate(stdin, timeout=seconds)
            except BaseException:
                end(process)
                raise
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def status(self) -> dict[str, Any]:
        """What `status --json` says."""
        done = self.run("status", "--json")
        assert done.returncode == 0, done.stderr
        found: dict[str, Any] = json.loads(done.stdout)
        return found


@dataclass(frozen=True)
class Daemon:
    """A running `hypernode daemon`."""

    node: Node
    process: subprocess.Popen[str]
    addresses: tuple[str, ...]

    @property
    def peers(self) -> list[str]:
        """`--peer` options to reach it."""
        return [word for address in self.addresses for word in ("--peer", address)]

    def kill(self) -> None:
        """As a power cut would: at once, no goodbye."""
        self.process.kill()
        self.process.wait()


@contextlib.contextmanager
def daemon(node: Node, *listen: str, options: Sequence[str] = (), wrapper: Sequence[str] = ()) -> Iterator[Daemon]:
    """A daemon that answers; stopped orderly at the end (and that checked) unless the test killed it."""
    words = [word for address in listen or (_any_port(node),) for word in ("--listen", address)]
    with (
        node.start("daemon", *words, *options, wrapper=wrapper, stderr=None) as process,
        _serving(node, process) as serving,
    ):
        yield serving


@contextlib.contextmanager
def liar(node: Node) -> Iterator[Daemon]:
    """A peer that corrupts every block it serves, out of the home of a node that is not running."""
    enter = node.host.enter if node.host else []
    argv = [*enter, sys.executable, "-m", "tests.support.liar", os.fspath(node.home), _any_port(node)]
    with (
        subprocess.Popen(argv, cwd=TOP, text=True, stdout=subprocess.PIPE) as process,
        _serving(node, process) as lying,
    ):
        yield lying


def _any_port(node: Node) -> str:
    return f"/ip4/{node.host.address if node.host else '127.0.0.1'}/tcp/0"


@contextlib.contextmanager
def _serving(node: Node, process: subprocess.Popen[str]) -> Iterator[Daemon]:
    try:
        assert process.stdout is not None
        word, *addresses = process.stdout.readline().split() or [""]
        assert word == "ready", f"{process.args!r} did not start: exit code {process.wait()}"
        yield Daemon(node, process, tuple(addresses))
    except BaseException:
        end(process)
        raise
    if process.returncode is None:
        process.send_signal(signal.SIGTERM)
        try:
            assert process.wait(PATIENCE_SECONDS) == 0
        except BaseException:
            process.kill()
            raise


@contextlib.contextmanager
def running(process: subprocess.Popen[str]) -> Iterator[subprocess.Popen[str]]:
    """The process, ended if it is still there afterwards."""
    with process:
        try:
            yield process
        finally:
            end(process)


def end(process: subprocess.Popen[str]) -> None:
    """End it: asking first, so that it unmounts what it mounted."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()


def boot_figures(path: Path) -> dict[str, Any]:
    """What `boot --stats` wrote, with the keys that are promised."""
    figures: dict[str, Any] = json.loads(path.read_text())
    promised = {"link", "version", "image_bytes", "wire_bytes", "blocks_fetched", "blocks_local"}
    assert promised | {"first_output_seconds", "exit_code"} <= figures.keys()
    return figures
