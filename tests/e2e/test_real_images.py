"""Real images of several layers, through a registry and back: pulled, shared, booted, exported, and compared with what
umoci and podman unpack.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.container_tools import export, run, share, show
from tests.support.nodes import Daemon
from tests.support.real_images import RECIPES, real_image
from tests.support.trees import differences

pytestmark = [
    pytest.mark.real("root", "fuse", "erofs", "nspawn", "skopeo", "umoci", "docker-registry", "mmdebstrap", "podman"),
    pytest.mark.slow,
]


@pytest.mark.parametrize("name", RECIPES)
def test_an_image_pulled_booted_and_pushed_is_the_same_to_all(
    name: str, registry: str, home: Daemon, containers: dict[str, str], tmp_path: Path
) -> None:
    recipe, layout = RECIPES[name], real_image(name)
    pushed = f"docker://{registry}/{name}:1"
    run("skopeo", "copy", "--dest-tls-verify=false", f"oci:{layout}:image", pushed)

    link = share(home.node, pushed, "--insecure", "--name", name)
    done = home.node.run("boot", link, "--", *recipe.command)
    assert (done.returncode, done.stdout) == (0, recipe.output), done.stderr

    run("umoci", "unpack", "--image", f"{layout}:image", tmp_path / "umoci")
    export(home.node, link, "--dir", str(tmp_path / "exported"))
    assert _content(tmp_path / "umoci" / "rootfs", tmp_path / "exported") == []

    back = f"docker://{registry}/{name}:2"
    export(home.node, link, "--push", back, "--insecure")
    image = back.removeprefix("docker://")
    run("podman", "pull", "-q", "--tls-verify=false", image, **containers)
    mounted = run("podman", "image", "mount", image, **containers).strip()
    try:
        assert _content(Path(mounted), tmp_path / "exported") == []
        said = run("podman", "run", "--rm", "--network", "none", image, *recipe.command, **containers)
        assert said == recipe.output
        (inspected,) = json.loads(run("podman", "image", "inspect", image, **containers))
        assert inspected["Config"].get("StopSignal", "") == show(home.node, link)["config"]["stop_signal"]
    finally:
        run("podman", "image", "unmount", image, **containers)


def _content(left: Path, right: Path) -> list[str]:
    """Differences but for times of directories: the unpacker's clock gives some of them."""
    return [line for line in differences(left, right) if "mtime" not in line or (right / line.split(":")[0]).is_file()]
