"""The API over HTTP, with a node behind it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from hypernode.api.requests import REQUESTS
from hypernode.api.results import RESULTS
from hypernode.http.openapi import make_document, request_schema
from hypernode.http.rest import LINES, NOT_OFFERED
from tests.hypernode.sites import Answer, Site, api_site


def _make_tree(directory: Path) -> None:
    (directory / "sub").mkdir(parents=True)
    (directory / "hello").write_text("world")


async def _share(site: Site, directory: Path) -> Answer:
    _make_tree(directory)
    answer = await site.ask("/v1/share", {"path": str(directory), "name": "web"})
    assert answer.status == 200, answer.body
    return answer


async def test_an_image_is_shared_looked_at_and_read(tmp_path: Path) -> None:
    async with api_site(tmp_path / "home") as site:
        link = (await _share(site, tmp_path / "tree")).json["result"]["link"]
        (image,) = (await site.ask("/v1/images")).json["result"]["images"]
        assert (image["name"], image["link"]) == ("web", link)
        listed = (await site.ask(f"/v1/ls?place={link}:/&recursive=true")).json
        names = [entry["path"] for event in listed["events"] for entry in event["entries"]]
        assert names == ["hello", "sub"]
        lines = await site.ask(f"/v1/cat?place={link}:/hello", headers={"Accept": LINES})
        told = [json.loads(line) for line in lines.body.splitlines()]
        assert lines.headers["content-type"] == LINES
        assert "result" in told[-1]
        assert any(event.get("event") == "data" for event in told)
        assert (await site.ask("/v1/container-list?all=true")).json["result"] == {"containers": []}
        tagged = await site.ask("/v1/tag", {"link": link, "tag": "one"})
        assert tagged.status == 200
        (version,) = (await site.ask(f"/v1/log?link={link}")).json["result"]["versions"]
        assert version["tags"] == ["one"]


async def test_names_that_are_no_utf_8_are_listed_and_read(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / os.fsdecode(b"caf\xe9")).write_text("coffee")
    async with api_site(tmp_path / "home") as site:
        link = (await site.ask("/v1/share", {"path": str(tree), "name": "web"})).json["result"]["link"]
        listed = (await site.ask(f"/v1/ls?place={link}:/&recursive=true")).json
        assert [entry["path"] for event in listed["events"] for entry in event["entries"]] == ["caf\udce9"]
        read = await site.ask(f"/v1/cat?place={link}:/caf%E9", headers={"Accept": LINES})
        assert (read.status, b"Y29mZmVl" in read.body) == (200, True), read.body


@pytest.mark.parametrize(
    ("path", "body", "status", "words"),
    [
        ("/v1/nothing", None, 404, "Not Found"),
        ("/v1/pull", None, 405, "Method Not Allowed"),
        ("/v1/images", {}, 405, "Method Not Allowed"),
        ("/v1/boot", {"link": "x"}, 404, "Not Found"),
        ("/v1/container-logs?container=web", None, 404, "Not Found"),
        ("/v1/container-inspect?container=web", None, 404, "web"),
        ("/v1/images?more=1", None, 400, "no field 'more'"),
        ("/v1/log", None, 400, "lacks a field"),
        ("/v1/log?link=a&link=b", None, 400, "2 times"),
        ("/v1/log?link=a&refresh=maybe", None, 400, "wrong type"),
        ("/v1/log?link=hyper://a", None, 422, "malformed link"),
        ("/v1/log?link=a", None, 404, "is called 'a'"),
        ("/v1/events", None, 400, "go on"),
        ("/v1/events?follow=false&since=soon", None, 422, "no point in time"),
        ("/v1/pull", {"link": 7}, 400, "wrong type"),
        ("/v1/pull", {"link": "x", "v": 1}, 400, "no field 'v'"),
        ("/v1/pull", {"link": "x", "op": "collect"}, 400, "no field 'op'"),
        ("/v1/pull", [], 400, "not a JSON object"),
        ("/v1/container-stop", {"container": "web", "seconds": -1}, 422, "makes no sense"),
        ("/v1/unmount", {"directory": "/nowhere"}, 404, "nothing mounted"),
        ("/v1/share", {"path": "a\0b"}, 400, "wrong type"),
    ],
)
async def test_failures_have_a_status_and_words(
    tmp_path: Path, path: str, body: object, status: int, words: str
) -> None:
    async with api_site(tmp_path / "home") as site:
        for headers in ({}, {"Accept": LINES}):
            if path == "/v1/events" and headers:
                continue  # lines do go on
            answer = await site.ask(path, body, headers=headers)
            assert answer.status == status, answer.body
            assert words in answer.json["error"]["message"]
            assert (answer.json["error"]["code"] == "not_found") is (status == 404)


async def test_only_json_and_only_with_the_token(tmp_path: Path) -> None:
    async with api_site(tmp_path / "home") as site:
        assert (await site.ask("/v1/images", token="x" * 43)).status == 401
        assert (await site.ask("/v1/collect", {}, headers={"Content-Type": "text/plain"})).status == 415
        assert (await site.ask("/v1/images", headers={"Host": "evil.example"})).status == 421
        assert (await site.ask("/v1/images", headers={"Origin": "https://evil.example"})).status == 403
        assert (await site.ask("/healthz", token="x")).body == b"ok\n"
        assert (await site.ask("/v1/collect", {"dry_run": True})).status == 200


async def test_what_happens_is_followed_line_by_line(tmp_path: Path) -> None:
    async with api_site(tmp_path / "home") as site:
        site.node.events.emit("node", "start", "before")
        host, _, port = site.url.partition("://")[2].rpartition(":")
        async with await trio.open_tcp_stream(host, int(port)) as stream:
            head = f"Host: {host}\r\nAuthorization: Bearer {site.token}\r\nAccept: {LINES}\r\n"
            await stream.send_all(f"GET /v1/events?since=1m&filters=type%3Dnode HTTP/1.1\r\n{head}\r\n".encode())
            received = b""
            with trio.fail_after(60):
                while b"before" not in received:
                    received += await stream.receive_some()
                site.node.events.emit("peer", "connect", "filtered")
                site.node.events.emit("node", "stop", "after")
                while b"after" not in received:
                    received += await stream.receive_some()
    assert b"filtered" not in received


def test_every_request_is_described_or_left_out_on_purpose() -> None:
    document = make_document()
    described = {path.removeprefix("/v1/") for path in document["paths"]}
    assert described == set(REQUESTS) - {kind.op for kind in NOT_OFFERED}
    assert {kind.op for kind in RESULTS} == described, "an operation whose result nobody described"
    schema = request_schema(REQUESTS["share"])
    assert schema["required"] == ["path"]
    assert schema["properties"]["command"] == {"type": "array", "items": {"type": "string"}, "default": []}
    assert schema["properties"]["name"] == {"type": ["string", "null"], "default": None}


@pytest.mark.slow
async def test_it_does_what_its_description_says(tmp_path: Path) -> None:
    """By hundreds of requests that the description allows, and that it does not."""
    async with api_site(tmp_path / "home") as site:
        await _share(site, tmp_path / "tree")
        command = [sys.executable, "-m", "schemathesis.cli", "run", f"{site.url}/openapi.json"]
        options = {
            "--header": f"Authorization: Bearer {site.token}",
            # These would write where a path happens to lead, or read all of it; ask the whole network; take a second
            # of processor for each passphrase on purpose; and make hundreds of cases of 27 fields.
            "--exclude-path-regex": "^/v1/(share|export|mount|checkout|diagnose|key-(ex|im)port|container-create)$",
            "--phases": "coverage",
            # What fits a schema may still be no link.
            "--exclude-checks": "positive_data_acceptance",
            "--seed": "1",
            "--generation-database": "none",
            "--request-timeout": "60",
        }
        words = [word for option in options.items() for word in option]
        with trio.fail_after(300):
            done = await trio.run_process(
                [*command, *words, "--no-color"],
                cwd=tmp_path,
                check=False,
                capture_stdout=True,
                stderr=subprocess.STDOUT,
            )
    assert done.returncode == 0, done.stdout.decode()
