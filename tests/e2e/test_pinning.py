"""The pinning service: a team's members pin images by token, each their own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hypernode.api.requests import Share
from hypernode.api.seed_requests import Seeds
from hypernode.api.version_requests import Verify
from tests.support.asking import ask
from tests.support.http import Answer, get, sites
from tests.support.nodes import Node, daemon, wait_until

pytestmark = pytest.mark.slow


def test_members_pin_by_token_and_see_their_own(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "file").write_bytes(bytes(range(256)) * 4000)
    node = Node(tmp_path / "service")
    with daemon(Node(tmp_path / "author")) as author, daemon(node, options=["--pinning", "127.0.0.1:0"]) as running:
        link = str(ask(author.node, Share(str(tree), name="web"))["link"])
        key = link.removeprefix("hyper://")
        url = sites(running, 1)["pinning"]
        done = node.run("token", "add", "alice", "--budget", "1G")
        assert done.returncode == 0, done.stderr
        alice, bob = done.stdout.strip(), node.run("token", "add", "bob").stdout.strip()
        assert node.run("token", "add", "bob").returncode == 5
        assert alice not in node.run("token", "ls").stdout
        everything = [path.read_bytes() for path in node.home.rglob("*") if path.is_file()]
        assert not any(alice.encode() in data for data in everything), "the token itself is kept"

        def ask_as(token: str, path: str, method: str = "GET", body: object = None) -> Answer:
            return get(url, path, {"Authorization": f"Bearer {token}"}, method=method, body=body)

        refused = get(url, "/pins")
        assert (refused.status, refused.json()["error"]["reason"]) == (401, "UNAUTHORIZED")
        wanted = {"cid": key, "name": "Web", "origins": list(author.addresses), "meta": {"app": "x"}}
        added = ask_as(alice, "/pins", "POST", wanted)
        assert added.status == 202
        pin: dict[str, Any] = added.json()
        assert pin["pin"] == wanted
        assert pin["status"] in ("queued", "pinning", "pinned")
        place = f"/pins/{pin['requestid']}"
        wait_until(lambda: bool(ask_as(alice, place).json()["status"] == "pinned"), "the pin is whole")
        assert ask(node, Verify(link))["complete"]
        assert ask_as(alice, "/pins", "POST", wanted).json()["requestid"] == pin["requestid"], "one pin of one thing"

        for query, count in (
            ("", 1),
            ("?status=queued,pinning,failed", 0),
            ("?name=Web&limit=5", 1),
            ("?name=web", 0),
            ("?name=WE&match=ipartial", 1),
            (f"?cid={key}", 1),
            ("?before=2020-01-01T00:00:00Z", 0),
            ("?after=2020-01-01T00:00:00Z", 1),
            ("?meta=%7B%22app%22%3A%22x%22%7D", 1),
            ("?meta=%7B%22app%22%3A%22y%22%7D", 0),
        ):
            assert ask_as(alice, f"/pins{query}").json()["count"] == count, query
        for query in ("?status=gone", "?limit=0", "?match=x", "?meta=%5B", "?before=soon"):
            assert ask_as(alice, f"/pins{query}").status == 400, query
        bodies: list[object] = [
            {},
            {"cid": 1},
            {"cid": "x"},
            {"cid": key, "name": "x" * 256},
            {"cid": key, "name": "\ud800"},
            [],
        ]
        for body in (*bodies, {"cid": key, "origins": ["x"]}, {"cid": key, "meta": {"x": 1}}):
            wrong = ask_as(alice, "/pins", "POST", body)
            assert (wrong.status, wrong.json()["error"]["reason"]) == (400, "BAD_REQUEST"), body

        assert ask_as(bob, "/pins").json() == {"count": 0, "results": []}
        assert ask_as(bob, place).status == 404
        assert ask_as(bob, place, "DELETE").status == 404
        assert ask_as(bob, "/pins", "POST", {"cid": f"{key}@v1"}).status == 202
        changed = ask_as(alice, place, "POST", {"cid": f"{key}@v1", "name": "v1"})
        assert changed.status == 202
        assert changed.json()["requestid"] != pin["requestid"]
        assert ask_as(alice, place).status == 404
        owners = [(seed["owner"], seed["link"]) for seed in ask(node, Seeds())["seeds"]]
        assert sorted(owners) == [("alice", f"{link}@v1"), ("bob", f"{link}@v1")]
        assert ask_as(alice, f"/pins/{changed.json()['requestid']}", "DELETE").status == 202
        assert [seed["owner"] for seed in ask(node, Seeds())["seeds"]] == ["bob"]

        assert json.loads(node.run("token", "revoke", "alice", "--json").stdout)["revoked"][0]["name"] == "alice"
        assert ask_as(alice, "/pins").status == 401
        assert node.run("token", "revoke", "alice").returncode == 3
