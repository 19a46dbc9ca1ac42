"""What operations answer is what the description says: `Site.ask` checks each answer against it."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlencode

from tests.hypernode.sites import api_site

_QUERIES = ("hello", "status", "images", "du", "peers", "keys", "tokens", "seeds", "volumes", "traces")
_OF_AN_IMAGE = ("log", "show", "writers")


async def test_results_are_as_described(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "hello").write_text("world")
    requests: list[tuple[str, dict[str, object]]] = [
        ("fork", {"link": "web", "name": "other"}),
        ("tag", {"link": "web", "tag": "stable"}),
        ("tag", {"link": "web", "tag": "stable", "remove": True}),
        ("pull", {"link": "web"}),
        ("verify", {"link": "web"}),
        ("pin", {"link": "web"}),
        ("collect", {"dry_run": True}),
        ("checkout", {"link": "web", "directory": str(tmp_path / "out")}),
        ("export", {"link": "web", "form": "tar", "target": str(tmp_path / "web.tar")}),
        ("key-rotate", {"link": "web"}),
        ("token-add", {"name": "ci"}),
        ("seed-add", {"link": "web"}),
        ("container-create", {"link": "web", "name": "one"}),
    ]
    looks: list[tuple[str, dict[str, str]]] = [
        *((op, {}) for op in _QUERIES),
        *((op, {"link": "web"}) for op in _OF_AN_IMAGE),
        ("ls", {"place": "web:/"}),
        ("cat", {"place": "web:/hello"}),
        ("diff", {"old": "web", "new": "other"}),
        ("events", {"since": "1h", "follow": "false"}),
        ("container-list", {"all": "true"}),
        ("container-inspect", {"container": "one"}),
    ]
    ends: list[tuple[str, dict[str, object]]] = [
        ("seed-rm", {"link": "web"}),
        ("token-revoke", {"name": "ci"}),
        ("trace-forget", {}),
        ("container-remove", {"container": "one"}),
    ]
    async with api_site(tmp_path / "home") as site:
        shared = await site.ask("/v1/share", {"path": str(tree), "name": "web"})
        assert shared.status == 200, shared.body
        for op, fields in requests:
            answer = await site.ask(f"/v1/{op}", fields)
            assert answer.status == 200, (op, answer.body)
        for op, query in looks:
            answer = await site.ask(f"/v1/{op}?{urlencode(query)}")
            assert answer.status == 200, (op, answer.body)
        for op, fields in ends:
            answer = await site.ask(f"/v1/{op}", fields)
            assert answer.status == 200, (op, answer.body)
