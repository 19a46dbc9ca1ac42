"""A container's ways out and in: --net user, and published ports of TCP and UDP. Hosts are network namespaces."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.containers import Home, nothing_of_containers_left, share
from tests.support.netns import NamespacePair
from tests.support.nodes import Node, daemon, wait_until
from tests.vmhost.support import make_busybox_root, needs_programs

pytestmark = [pytest.mark.real, needs_programs]

_ASK = """
import socket, sys
kind = getattr(socket, sys.argv[1])
with socket.socket(type=kind) as asking:
    asking.settimeout(2)
    asking.connect((sys.argv[2], int(sys.argv[3])))
    asking.send(b"word\\r\\n\\r\\n")
    print(asking.recv(100).decode(), end="")
"""
_SERVE = """
import socket
with socket.create_server(("10.77.0.2", 0)) as server:
    print(server.getsockname()[1], flush=True)
    while True:
        connection, (address, _) = server.accept()
        with connection:
            connection.sendall(f"you are {address}\\n".encode())
"""
# In the network of a container: busybox has no server of datagrams.
_ECHO = """
import socket
with socket.socket(type=socket.SOCK_DGRAM) as server:
    server.bind(("127.0.0.1", 53))
    print("ready", flush=True)
    while True:
        data, sender = server.recvfrom(100)
        server.sendto(b"inside: " + data, sender)
"""
_STAY = "busybox httpd -p 127.0.0.1:80 -h /data; while true; do sleep 1; done"


@contextlib.contextmanager
def _echo_in(home: Home, name: str) -> Iterator[None]:
    """A server of datagrams in the network of the container, for the block."""
    enter = ["nsenter", f"--net=/proc/{home.inspect(name)['state']['pid']}/ns/net", "--"]
    with subprocess.Popen([*enter, sys.executable, "-c", _ECHO], stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            assert server.stdout.readline() == "ready\n"
            yield
        finally:
            server.kill()


@pytest.fixture
def home(namespaces: NamespacePair, tmp_path: Path) -> Iterator[Home]:
    """On the left host, with a daemon."""
    node = Node(tmp_path / "home", namespaces.left)
    with nothing_of_containers_left(node.home), daemon(node):
        home = share(node, make_busybox_root(tmp_path / "root"))
        try:
            yield home
        finally:
            for name in home.names("-a"):
                home.do("rm", "-f", name)


def _asked(pair: NamespacePair, kind: str, port: str) -> str:
    """What the left host's port answers the right one, asked until it does."""
    answer: list[str] = [""]

    def is_answered() -> bool:
        argv = [*pair.right.enter, sys.executable, "-c", _ASK, kind, pair.left.address, port]
        answer[0] = subprocess.run(argv, capture_output=True, text=True, check=False).stdout
        return bool(answer[0])

    wait_until(is_answered, f"{kind} {port} answers")
    return answer[0]


def _published(home: Home, name: str) -> dict[str, str]:
    """Host ports by what they lead to."""
    texts = home.inspect(name)["state"]["ports"]
    return {text.partition("->")[2]: text.partition("->")[0].rpartition(":")[2] for text in texts}


def test_the_way_out_and_the_ways_in(home: Home, namespaces: NamespacePair) -> None:
    serve = [*namespaces.right.enter, sys.executable, "-c", _SERVE]
    with subprocess.Popen(serve, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            port = server.stdout.readline().strip()
            home.boot("--name", "out", "--net", "user", "-p", "0:53/udp", "-p", "0:80", script=_STAY)
            answer = home.do("exec", "out", "busybox", "nc", "10.77.0.2", port)
            assert answer == f"you are {namespaces.left.address}\n"  # as if the host itself had asked
        finally:
            server.kill()
    assert home.do("exec", "out", "cat", "/etc/resolv.conf") == "nameserver 10.0.2.3\n"
    assert "tap0" in home.do("exec", "out", "ls", "/sys/class/net")
    ports = _published(home, "out")
    with _echo_in(home, "out"):
        assert _asked(namespaces, "SOCK_DGRAM", ports["53/udp"]).startswith("inside: word")
    assert _asked(namespaces, "SOCK_STREAM", ports["80/tcp"]).startswith("HTTP/1.")

    keeper = int(home.state("out")["keeper"])
    (way,) = _children(keeper, b"slirp4netns")
    os.kill(keeper, signal.SIGKILL)
    wait_until(lambda: not _is_alive(way), "its way out ends with the keeper")
    home.wait_status("out", "exited")
    home.do("start", "out")
    assert "tap0" in home.do("exec", "out", "ls", "/sys/class/net")


def _children(parent: int, name: bytes) -> list[int]:
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, IndexError):
            fields = (entry / "stat").read_bytes().rpartition(b")")
            if int(fields[2].split()[1]) == parent and fields[0].endswith(b"(" + name):
                found.append(int(entry.name))
    return found


def _is_alive(pid: int) -> bool:
    try:
        return b") Z" not in Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return False


def test_datagrams_reach_a_container_without_a_network(home: Home, namespaces: NamespacePair) -> None:
    home.boot("--name", "alone", "-p", "0:53/udp", script=_STAY)
    port = _published(home, "alone")["53/udp"]
    with _echo_in(home, "alone"):
        assert _asked(namespaces, "SOCK_DGRAM", port).startswith("inside: word")
    assert home.node.run("boot", "-d", "-p", f"{port}:53/udp", home.link, "--", "true").returncode == 125
    assert home.node.run("boot", "-d", "-p", "1:1/sctp", home.link, "--", "true").returncode == 125
    assert home.do("exec", "alone", "ls", "/sys/class/net") == "lo\n"
    home.do("rm", "-f", "alone")
    home.boot("--name", "next", "-p", f"{port}:53/udp", script=_STAY)
    with _echo_in(home, "next"):
        assert _asked(namespaces, "SOCK_DGRAM", port).startswith("inside: word")
