"""Searching for a router from a network namespace that leads nowhere."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytestmark = pytest.mark.real("root", "netns")

SEARCH = """
import trio
from swarm.net.nat.gateway import keep_mapped

async def main():
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            def told(outside, why):
                print(outside, why)
                nursery.cancel_scope.cancel()
            await keep_mapped(4000, ["/ip4/10.77.0.1/tcp/4000"], told)

trio.run(main)
"""


def test_without_a_route_out_it_says_so_and_nothing_else() -> None:
    searching = ["unshare", "--net", "--", sys.executable, "-c", SEARCH]
    done = subprocess.run(searching, capture_output=True, text=True, check=False, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "None no router can be searched for: Network is unreachable\n"
