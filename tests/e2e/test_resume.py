"""What was fetched before a crash is not fetched again."""

from __future__ import annotations

import json
import random
from contextlib import suppress
from pathlib import Path

import pytest

from hyperlog.errors import HyperError
from hypernode.api.requests import Share
from hypernode.api.version_requests import Usage
from tests.support.asking import ask
from tests.support.nodes import Node, daemon, wait_until

pytestmark = pytest.mark.slow
MB = 1_000_000


def _stored(node: Node) -> int:
    with suppress(HyperError, OSError):  # while the command starts
        return int(ask(node, Usage())["stored_bytes"])
    return 0


def test_a_pull_that_was_killed_goes_on_where_it_was(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    for number in range(6):
        (tree / str(number)).write_bytes(random.Random(number).randbytes(MB))
    author, reader = Node(tmp_path / "author"), Node(tmp_path / "reader")
    slowly = Node(author.home, environment={"HYPERNODE_UPLOAD_LIMIT": "250k"})  # all of it would take 24 s
    with daemon(slowly) as serving:
        link = str(ask(author, Share(str(tree), name="web"))["link"])
        with reader.start("pull", link, *serving.peers) as first:
            wait_until(lambda: _stored(reader) > MB, "a part of it is here")
            first.kill()
            first.communicate()
        assert first.returncode == -9, "it was done before it was killed"
    with daemon(author) as serving:
        done = reader.run("pull", link, *serving.peers, "--json")
        assert done.returncode == 0, done.stderr
        assert 0 < json.loads(done.stdout.splitlines()[-1])["bytes_fetched"] < 5.2 * MB
