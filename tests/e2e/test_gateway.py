"""The gateway: files of an image that is elsewhere, by ranges; and podman, which pulls it as from any registry."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import ssl
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote_from_bytes

import pytest

from hypernode.api.requests import Share
from hypernode.api.token_requests import TokenAdd, TokenRevoke
from hypernode.api.version_requests import Collect, Usage
from tests.support.asking import ask
from tests.support.container_tools import containers_at, run
from tests.support.http import get, sites
from tests.support.nodes import Daemon, Node, daemon
from tests.vmhost.support import make_busybox_root

pytestmark = pytest.mark.slow

LARGE = random.Random(1).randbytes(3_000_000)
ODD = b'odd \xff"<b>\n%2f?#'


def _tree(top: Path) -> Path:
    (top / "etc").mkdir(parents=True)
    (top / "etc" / "hostname").write_text("one\n")
    (top / "etc" / "page.html").write_text("<script>alert(1)</script>")
    (top / "large").write_bytes(LARGE)
    with (top / "sparse").open("wb") as file:
        file.truncate(5_000_000)
        file.seek(2_000_000)
        file.write(b"in the middle")
    (top / "empty").touch()
    (top / "up").symlink_to("../../../../etc")
    (top / "host").symlink_to("/etc/hostname")
    (top / "loop").symlink_to("loop")
    os.mkfifo(top / "fifo")
    Path(os.fsdecode(os.fsencode(top) + b"/" + ODD)).write_text("odd\n")
    return top


@dataclass(frozen=True)
class World:
    """An author, and a gateway elsewhere that knows the log and nothing else."""

    author: Daemon
    gateway: Daemon
    url: str
    link: str
    tree: Path

    @property
    def key(self) -> str:
        return self.link.removeprefix("hyper://")


@contextlib.contextmanager
def _world(tmp_path: Path, tree: Path) -> Iterator[World]:
    with daemon(Node(tmp_path / "author")) as author:
        link = str(ask(author.node, Share(str(tree), name="My Web"))["link"])
        node = Node(tmp_path / "gateway", environment={"HYPERNODE_READ_DEADLINE": "3"})
        with daemon(node, options=["--gateway", "127.0.0.1:0"]) as gateway:
            done = node.run("log", link, *author.peers)
            assert done.returncode == 0, done.stderr
            yield World(author, gateway, sites(gateway, 1)["gateway"], link, tree)


def test_files_are_read_by_ranges_and_nothing_else_is_fetched(tmp_path: Path) -> None:
    with _world(tmp_path, _tree(tmp_path / "tree")) as world:
        url, top = world.url, f"/{world.key}"
        found = get(url, f"{top}/etc/hostname")
        assert (found.status, found.body, found.headers["content-length"]) == (200, b"one\n", "4")
        tag = found.headers["etag"]
        assert get(url, f"{top}@v1/etc/hostname", {"If-None-Match": f'"x", {tag}'}).status == 304
        assert get(url, "/my-web@1//etc/./hostname").body == b"one\n", "an image here has a name"
        assert get(url, f"/hyper://{world.key}/host").headers["etag"] == tag, "one content, one tag"
        assert get(url, f"{top}/large", method="HEAD").headers["content-length"] == "3000000"
        before = int(ask(world.gateway.node, Usage())["stored_bytes"])
        part = get(url, f"{top}/large", {"Range": "bytes=1000000-1000009"})
        assert (part.status, part.body) == (206, LARGE[1_000_000:1_000_010])
        assert part.headers["content-range"] == "bytes 1000000-1000009/3000000"
        assert int(ask(world.gateway.node, Usage())["stored_bytes"]) - before < 200_000, "more was fetched than read"
        for header, body in (("bytes=-5", LARGE[-5:]), ("bytes=2999990-", LARGE[-10:]), ("bytes=5-2,7-8", LARGE)):
            assert get(url, f"{top}/large", {"Range": header}).body == body
        assert get(url, f"{top}/large", {"Range": "bytes=0-1", "If-Range": '"old"'}).body == LARGE
        beyond = get(url, f"{top}/large", {"Range": "bytes=3000000-"})
        assert (beyond.status, beyond.headers["content-range"]) == (416, "bytes */3000000")
        assert get(url, f"{top}/sparse").body == (world.tree / "sparse").read_bytes()
        assert get(url, f"{top}/sparse", {"Range": "bytes=1999999-2000001"}).body == b"\0in"
        assert get(url, f"{top}/empty").body == b""

        page = get(url, f"{top}/etc/page.html")
        assert page.headers["content-security-policy"] == "sandbox; default-src 'none'", "pages of images are let run"
        assert page.headers["x-content-type-options"] == "nosniff"


def test_directories_are_listed_and_nothing_leads_out_of_the_image(tmp_path: Path) -> None:
    with _world(tmp_path, _tree(tmp_path / "tree")) as world:
        url, top = world.url, f"/{world.key}"
        rows = {row["name"]: row for row in get(url, f"{top}/?format=json").json()["entries"]}
        assert set(map(os.fsencode, rows)) == set(os.listdir(os.fsencode(world.tree)))
        assert (rows["up"]["kind"], rows["up"]["target"], rows["fifo"]["kind"]) == (
            "symlink",
            "../../../../etc",
            "fifo",
        )
        shown = get(url, f"{top}/")
        assert shown.headers["content-type"] == "text/html; charset=utf-8"
        assert b"<b>" not in shown.body
        spelled = quote_from_bytes(ODD, safe="")
        assert f'href="./{spelled}"'.encode() in shown.body
        assert get(url, f"{top}/{spelled}").body == b"odd\n"
        moved = get(url, f"{top}/up?format=json")
        assert (moved.status, moved.headers["location"]) == (307, f"{top}/up/?format=json")
        assert [row["name"] for row in get(url, f"{top}/up/?format=json").json()["entries"]] == [
            "hostname",
            "page.html",
        ]
        for path in ("/../../etc/hostname", "/%2e%2e/%2e%2e/etc/hostname", "/etc/..%2f..%2f..%2fetc%2fhostname"):
            assert get(url, top + path).body == b"one\n", "the root's parent is the root"
        for path, status in (
            (f"{top}/absent", 404),
            (f"{top}/loop", 422),
            (f"{top}/fifo", 422),
            (f"{top}@v9/", 404),
            (f"{top}@/", 422),
            ("/nobody/", 404),
            ("/%ff/", 422),
            (f"{top}@%22x/", 422),
        ):
            refused = get(url, path)
            assert (refused.status, "Traceback" in refused.body.decode()) == (status, False), path
        assert get(url, "/", {"Host": "evil.example"}).status == 421

        world.author.kill()
        lost = get(url, f"{top}/large")
        assert lost.status == 503, "nobody is there who has it"
        assert b"hint" in lost.body


@pytest.mark.real("root", "podman", "skopeo", "runc")
def test_podman_pulls_and_runs_an_image_of_the_swarm(tmp_path: Path) -> None:
    root = make_busybox_root(tmp_path / "root")
    with _world(tmp_path, root) as world, containers_at(tmp_path) as environment:
        registry = world.url.removeprefix("http://")
        by_key, by_name = f"{registry}/{world.key}:latest", f"{registry}/my-web:v1"
        told = json.loads(run("skopeo", "inspect", "--tls-verify=false", f"docker://{by_key}"))
        assert (told["RepoTags"], told["Os"]) == (["latest", "v1"], "linux")
        layer = told["Layers"][0]
        found = get(world.url, f"/v2/{world.key}/blobs/{layer}")
        assert layer == f"sha256:{hashlib.sha256(found.body).hexdigest()}"
        rest = get(world.url, f"/v2/{world.key}/blobs/{layer}", {"Range": f"bytes={len(found.body) - 700_000}-"})
        assert (rest.status, rest.body) == (206, found.body[-700_000:])

        ask(world.gateway.node, Collect())  # what was remembered of the layer outlives its blocks
        assert get(world.url, f"/v2/{world.key}/blobs/{layer}").body == found.body
        run("podman", "pull", "-q", "--tls-verify=false", by_key, **environment)
        command = ("/bin/sh", "-c", "cat /data/file3 | wc -c")
        said = run("podman", "run", "--rm", "--network", "none", by_key, *command, **environment)
        assert said.strip() == str((root / "data/file3").stat().st_size)
        digest = told["Digest"]
        by_digest = f"{registry}/{world.key}@{digest}"
        assert run("podman", "pull", "-q", "--tls-verify=false", by_digest, **environment)
        assert json.loads(run("skopeo", "inspect", "--tls-verify=false", f"docker://{by_name}"))["Digest"] == digest

        other = str(ask(world.gateway.node, Share(str(root / "etc"), name="other"))["link"]).removeprefix("hyper://")
        for path, status, code in (
            (f"/v2/{other}/blobs/{layer}", 404, "BLOB_UNKNOWN"),
            (f"/v2/{world.key}/manifests/v9", 404, "MANIFEST_UNKNOWN"),
            (f"/v2/{world.key}/manifests/{layer}", 404, "MANIFEST_UNKNOWN"),
            ("/v2/nobody/manifests/latest", 404, "NAME_UNKNOWN"),
        ):
            refused = get(world.url, path)
            assert (refused.status, refused.json()["errors"][0]["code"]) == (status, code), path
        assert get(world.url, f"/v2/{world.key}/blobs/uploads/", method="POST").status == 405
        assert get(world.url, f"/v2/{world.key}/tags/list?n=1").json()["tags"] == ["latest"]


def _certificate(folder: Path) -> tuple[Path, Path]:
    certificate, key = folder / "cert.pem", folder / "key.pem"
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]
    argv = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", *subject]
    argv += ["-keyout", str(key), "-out", str(certificate), "-days", "2"]
    subprocess.run(argv, check=True, capture_output=True)
    return certificate, key


def test_with_tls_a_token_is_asked_for(tmp_path: Path) -> None:
    certificate, key = _certificate(tmp_path)
    tls = ssl.create_default_context(cafile=str(certificate))
    options = ["--gateway", "127.0.0.1:0", "--http-cert", str(certificate), "--http-key", str(key)]
    with daemon(Node(tmp_path / "home"), options=options) as running:
        url = sites(running, 1)["gateway"]
        assert get(url, "/v2/", tls=tls).status == 401
        token = str(ask(running.node, TokenAdd("ci", "gateway"))["token"])
        for_pins = str(ask(running.node, TokenAdd("ci", "pins"))["token"])
        bearer = {"Authorization": f"Bearer {token}"}
        assert get(url, "/v2/", bearer, tls=tls).status == 200
        assert get(url, "/v2/", {"Authorization": f"Bearer {for_pins}"}, tls=tls).status == 401
        basic = subprocess.run(["base64", "-w0"], input=f"anybody:{token}".encode(), capture_output=True, check=True)
        assert get(url, "/v2/", {"Authorization": f"Basic {basic.stdout.decode()}"}, tls=tls).status == 200
        for bad in ("Basic !", "Basic", "Bearer", "Digest x", f"Bearer {token}x"):
            assert get(url, "/v2/", {"Authorization": bad}, tls=tls).status == 401
        ask(running.node, TokenRevoke("ci"))
        assert get(url, "/v2/", bearer, tls=tls).status == 401
