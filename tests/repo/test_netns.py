"""The two-host wire of the tests is as fast as asked for, closed to the outside, counted, and gone afterwards."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.netns import NamespacePair

pytestmark = pytest.mark.real("root", "netns", "tc")

_SEND = """
import socket, sys
with socket.create_server((sys.argv[1], 7001)) as server:
    print("ready", flush=True)
    connection, _ = server.accept()
    with connection: connection.sendall(bytes(int(sys.argv[2])))
"""
_RECEIVE = """
import socket, sys
with socket.create_connection((sys.argv[1], 7001)) as connection:
    total = 0
    while piece := connection.recv(1 << 20): total += len(piece)
print(total)
"""


def transfer(pair: NamespacePair, size: int) -> float:
    """Move bytes from left to right; the seconds it took."""
    argv = [*pair.left.enter, sys.executable, "-c", _SEND, pair.left.address, str(size)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as sender:
        assert sender.stdout is not None
        assert sender.stdout.readline() == "ready\n"
        start = time.monotonic()
        assert pair.right.run(sys.executable, "-c", _RECEIVE, pair.left.address) == f"{size}\n"
        return time.monotonic() - start


@pytest.mark.slow
def test_the_wire_is_as_slow_as_asked(make_namespaces: Callable[[int | None], NamespacePair]) -> None:
    size = 6_000_000
    pair = make_namespaces(100)
    seconds = transfer(pair, size)
    assert seconds > (size - 600_000) * 8 / 100e6
    assert pair.right.received_bytes() > size
    assert (pair.left.tcp_opened(), pair.right.tcp_opened()) == (0, 1)
    assert transfer(make_namespaces(None), size) < seconds


def test_nothing_else_can_be_reached(namespaces: NamespacePair) -> None:
    routes = namespaces.right.run("ip", "route", "show").splitlines()
    assert [line.split()[0] for line in routes] == ["10.77.0.0/24", "224.0.0.0/4"]


def test_namespaces_are_gone_afterwards(make_namespaces: Callable[[int | None], NamespacePair]) -> None:
    assert Path("/run/netns", make_namespaces(None).left.name).exists()
    others = {path.name for path in Path("/run/netns").iterdir()}
    program = (
        "import contextlib\nfrom tests.support.netns import namespace_pair\n"
        "with contextlib.suppress(KeyboardInterrupt), namespace_pair() as pair:\n    raise KeyboardInterrupt\n"
        "print(pair.left.name)"
    )
    name = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout.strip()
    assert name not in others
    assert not Path("/run/netns", name).exists()
