"""`share --build --target`: a stage of a Dockerfile, where there is no network."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.container_tools import share, show
from tests.support.netns import NamespacePair
from tests.support.nodes import Node, daemon

pytestmark = [pytest.mark.real("root", "fuse", "erofs", "nspawn", "netns", "tc", "buildah", "runc"), pytest.mark.slow]

DOCKERFILE = """FROM scratch AS tools
COPY busybox /bin/busybox
ARG WORD=none
RUN ["/bin/busybox", "sh", "-c", "echo $WORD > /built"]
CMD ["/bin/busybox", "cat", "/built"]

FROM scratch AS never
COPY absent /absent

FROM scratch
COPY --from=tools /bin/busybox /bin/sh
COPY --from=tools /built /kept
CMD ["/bin/sh", "-c", "read line < /kept; echo last $line"]
"""


def test_stages(
    containers: dict[str, str], make_namespaces: Callable[[int | None], NamespacePair], tmp_path: Path
) -> None:
    context = tmp_path / "context"
    context.mkdir()
    (context / "Dockerfile").write_text(DOCKERFILE)
    busybox = shutil.which("busybox")
    assert busybox is not None
    shutil.copy(busybox, context / "busybox")
    with daemon(Node(tmp_path / "home", make_namespaces(None).left, environment=containers)) as home:
        argument = ("--build-arg", "WORD=seen")
        tools = share(home.node, "--build", str(context), "--target", "tools", *argument, "--name", "tools")
        assert show(home.node, tools)["config"]["cmd"] == ["/bin/busybox", "cat", "/built"]
        done = home.node.run("boot", tools)
        assert (done.returncode, done.stdout) == (0, "seen\n"), done.stderr

        last = share(home.node, "--build", str(context), *argument, "--name", "last")
        done = home.node.run("boot", last)
        assert (done.returncode, done.stdout) == (0, "last seen\n"), done.stderr
        assert home.node.run("ls", f"{last}:/bin").stdout.split()[-1] == "sh"

        for options, status, words in (
            (("--target", "nothing"), 6, "nothing"),
            (("--target", "never"), 6, "absent"),
            (("--file", "Otherfile"), 6, "Otherfile"),
        ):
            done = home.node.run("share", "--build", str(context), *options, "--name", "none")
            assert (done.returncode, words in done.stderr) == (status, True), done.stderr
        done = home.node.run("share", str(context), "--target", "tools")
        assert (done.returncode, "--build" in done.stderr) == (4, True), done.stderr
        assert not list((tmp_path / "home" / "run").glob("incoming/*"))
