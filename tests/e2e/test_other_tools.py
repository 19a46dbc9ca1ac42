"""Images come from the tools that people have, and go back to them, with the same tree: a loopback registry, skopeo,
umoci, buildah and podman are the other side.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import signal
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.images.layers import Entry, folder, layout, link, symlink, tar
from tests.support.container_tools import export, registry_at, run, share, show
from tests.support.nodes import Daemon, Node, running, wait_until
from tests.support.trees import differences

pytestmark = [
    pytest.mark.real("root", "fuse", "erofs", "nspawn", "skopeo", "umoci", "docker-registry"),
    pytest.mark.slow,
]

DOCKERFILE = """FROM scratch AS base
COPY busybox /bin/sh
ARG WHAT=nothing
RUN echo "made with $WHAT" > /made
FROM base AS last
COPY --chown=5:6 busybox /bin/busybox
ENV GREETING=hello
USER 7:8
EXPOSE 80
VOLUME /data
LABEL a.b=c
STOPSIGNAL SIGQUIT
HEALTHCHECK --interval=5s CMD ["/bin/busybox", "true"]
ENTRYPOINT ["/bin/busybox"]
CMD ["cat", "/made"]
"""


PASSWORDS = "ali:$2b$04$EOVoHNV3CYaV0st7dD7mC.C4uN7hQuxcacD5O7Xx33yro.dvK2PXK\n"  # open sesame


@pytest.fixture
def closed_registry(tmp_path: Path) -> Iterator[str]:
    """One that asks for a password."""
    (tmp_path / "passwords").write_text(PASSWORDS)
    with registry_at(tmp_path, auth={"htpasswd": {"realm": "x", "path": str(tmp_path / "passwords")}}) as address:
        yield address


@pytest.mark.real("mmdebstrap")
def test_a_debian_image_of_several_layers_there_and_back(
    debian_root: Path, registry: str, home: Daemon, tmp_path: Path
) -> None:
    base = tmp_path / "base.tar"
    argv = [
        "--numeric-owner",
        "--format=posix",
        "--xattrs",
        "--xattrs-include=*",
        "--pax-option=delete=atime,delete=ctime",
    ]
    run("tar", "-C", debian_root, *argv, "-cf", base, ".")
    second = [
        folder("opt/"),
        folder("opt/app/", 0o750, owner=(1000, 1000)),
        Entry("opt/app/data", os.urandom(300_000), owner=(1000, 1000)),
        link("opt/app/shell", "usr/bin/dash"),
        Entry("etc/.wh.hostname"),
        Entry("etc/motd", "second\n"),
    ]
    third = [
        folder("var/cache/"),
        Entry("var/cache/.wh..wh..opq"),
        Entry("etc/motd", "third\n", kind=tarfile.REGTYPE, mode=0o600),
        symlink("opt/app/link", "/etc/motd"),
        Entry("opt/app/.wh.nothing"),
    ]
    image = layout(
        tmp_path / "image", [base.read_bytes(), tar(second), tar(third)], config={"Cmd": ["/bin/cat", "/etc/motd"]}
    )
    base.unlink()
    reference = f"docker://{registry}/debian:1"
    run("skopeo", "copy", "--dest-tls-verify=false", f"oci:{image}:x", reference)

    link_ = share(home.node, reference, "--insecure", "--name", "debian")
    done = home.node.run("boot", link_)
    assert (done.returncode, done.stdout) == (0, "third\n"), done.stderr

    run("umoci", "unpack", "--image", f"{image}:x", tmp_path / "reference")
    shutil.rmtree(image)
    export(home.node, link_, "--dir", str(tmp_path / "exported"))
    found = differences(tmp_path / "reference" / "rootfs", tmp_path / "exported")
    # umoci takes these from its clock: the root's time, and of what it removes from after setting the time.
    assert [line for line in found if not line.startswith(("/: mtime", "/etc: mtime", "/var/cache: mtime"))] == []
    shutil.rmtree(tmp_path / "reference")
    shutil.rmtree(tmp_path / "exported")

    export(home.node, link_, "--oci", str(tmp_path / "layout"))
    again = share(home.node, str(tmp_path / "layout"), "--name", "again")
    assert show(home.node, again)["manifest"] == show(home.node, link_)["manifest"]


@pytest.mark.real("buildah", "podman", "runc")
def test_a_dockerfile_is_built_pushed_pulled_and_run_by_podman(
    registry: str, home: Daemon, containers: dict[str, str], tmp_path: Path
) -> None:
    context = tmp_path / "context"
    context.mkdir()
    (context / "Other").write_text(DOCKERFILE)
    busybox = shutil.which("busybox")
    assert busybox is not None
    shutil.copy(busybox, context / "busybox")
    built = share(
        home.node,
        "--build",
        str(context),
        "--file",
        str(context / "Other"),
        "--build-arg",
        "WHAT=care",
        "--name",
        "built",
    )
    config = show(home.node, built)["config"]
    assert (config["entrypoint"], config["cmd"], config["user"]) == (["/bin/busybox"], ["cat", "/made"], "7:8")
    assert (config["volumes"], config["ports"], config["labels"]["a.b"]) == (["/data"], ["80/tcp"], "c")
    assert (config["stop_signal"], config["healthcheck"]["interval"]) == ("SIGQUIT", 5_000_000_000)
    done = home.node.run("boot", built)
    assert (done.returncode, done.stdout) == (0, "made with care\n"), done.stderr
    for words in (["--", "echo", "given"], ["--entrypoint", "/bin/busybox", "--", "echo", "given"]):
        assert home.node.run("boot", built, *words).stdout == "given\n"
    done = home.node.run("boot", built, "--entrypoint", "/bin/sh", "--", "-c", "echo $GREETING")
    assert done.stdout == "hello\n", done.stderr

    reference = f"docker://{registry}/built:1"
    export(home.node, built, "--push", reference, "--insecure")
    pulled = share(home.node, reference, "--insecure", "--name", "pulled")
    assert show(home.node, pulled)["manifest"] == show(home.node, built)["manifest"]
    done = home.node.run("share", reference, "--insecure", "--platform", "linux/arm64")
    assert (done.returncode, "there is: linux/amd64" in done.stderr) == (3, True)
    done = home.node.run("share", f"docker://{registry}/nothing:1", "--insecure")
    assert (done.returncode, "manifest unknown" in done.stderr) == (6, True)

    for name in ("one.tar", "two.tar"):
        export(home.node, pulled, "--docker-archive", str(tmp_path / name), "--ref", "mine:1")
    assert (tmp_path / "one.tar").read_bytes() == (tmp_path / "two.tar").read_bytes()
    done = home.node.run("export", pulled, "--tar", str(tmp_path / "one.tar"))
    assert (done.returncode, "exists already" in done.stderr) == (5, True)

    run("podman", "load", "-q", "-i", tmp_path / "one.tar", **containers)
    said = run("podman", "run", "--rm", "--network", "none", "localhost/mine:1", **containers)
    assert said == "made with care\n"
    assert not list((tmp_path / "home" / "run").glob("incoming/*"))


def test_credentials_come_from_the_environment_or_a_file(closed_registry: str, home: Daemon, tmp_path: Path) -> None:
    image = layout(tmp_path / "image", [tar([folder("a/"), Entry("a/x", "x")])])
    reference = f"docker://{closed_registry}/closed:1"
    link_ = share(home.node, str(image), "--name", "closed")
    done = home.node.run("export", link_, "--push", reference, "--insecure")
    assert done.returncode == 6, done.stderr
    secret = {"HYPERNODE_REGISTRY_USER": "ali", "HYPERNODE_REGISTRY_PASSWORD": "open sesame"}
    knowing = Node(home.node.home, environment=secret)
    export(knowing, link_, "--push", reference, "--insecure")
    done = home.node.run("share", reference, "--insecure")
    assert done.returncode == 6, done.stderr
    pulled = share(knowing, reference, "--insecure", "--name", "pulled")
    assert show(home.node, pulled)["manifest"] == show(home.node, link_)["manifest"]
    token = base64.b64encode(b"ali:open sesame").decode()
    (tmp_path / "auth.json").write_text(json.dumps({"auths": {closed_registry: {"auth": token}}}))
    assert (
        share(home.node, reference, "--insecure", "--authfile", str(tmp_path / "auth.json"), "--name", "pulled")
        == pulled
    )


def test_an_interrupted_share_leaves_nothing(home: Daemon, tmp_path: Path) -> None:
    image = layout(tmp_path / "image", [tar([Entry("zeros", os.urandom(1 << 20) * 200)])], compress=False)
    with running(home.node.start("share", str(image), "--name", "stopped")) as process:
        incoming = home.node.home / "run" / "incoming"
        wait_until(lambda: incoming.is_dir() and any(incoming.iterdir()), "the import has begun")
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)
    assert process.returncode == 130
    wait_until(lambda: not any(incoming.iterdir()), "the import is undone")
    assert home.node.status()["logs"] == []
    assert share(home.node, str(image), "--name", "stopped").startswith("hyper://")
