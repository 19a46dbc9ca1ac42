"""A virtual machine with a network: the way out, not to what only this host may reach; and /run as the image has it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.machines import NEEDS, machine_home
from tests.support.netns import Namespace, NamespacePair

pytestmark = [pytest.mark.real(*NEEDS, "netns", "tc"), pytest.mark.slow]

_SERVE = """
import socket, sys
with socket.create_server((sys.argv[1], 0)) as server:
    print(server.getsockname()[1], flush=True)
    while True:
        connection, (address, _) = server.accept()
        with connection:
            connection.sendall(f"you are {address}\\n".encode())
"""


@contextmanager
def serving(host: Namespace, address: str) -> Iterator[str]:
    """The port of a server that says who asks."""
    command = [*host.enter, sys.executable, "-c", _SERVE, address]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            yield server.stdout.readline().strip()
        finally:
            server.kill()


def test_the_way_out_does_not_lead_to_this_hosts_loopback(namespaces: NamespacePair, tmp_path: Path) -> None:
    near, far = serving(namespaces.left, "127.0.0.1"), serving(namespaces.right, namespaces.right.address)
    with machine_home(tmp_path, namespaces.left) as home, near as here, far as there:
        ask = "busybox nc {} {} </dev/null || echo closed;"
        said = home.run_in_vm(
            *("--net", "user"),
            script="cat /etc/resolv.conf /run/ser:vice/state;"
            + ask.format(namespaces.right.address, there)
            + ask.format("10.0.3.2", here),  # its way out, which to QEMU is the loopback of where it runs
        )
        kept = "nameserver 10.0.2.3\nkept\n"
        assert said == f"{kept}you are {namespaces.left.address}\nclosed\n"
