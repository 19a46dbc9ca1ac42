"""Container tools that people have, kept to themselves: a registry on loopback, podman and buildah that run anywhere;
and what tests ask of a node about images.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.support.nodes import Node, wait_until

# podman and runc as they work without the right to raise limits, without systemd, and on mixed control groups.
RUNTIME = """#!{python}
import json, os, sys
for word, following in zip(sys.argv, [*sys.argv[1:], ""]):
    path = following + "/config.json" if word == "--bundle" else following if word == "--process" else ""
    if path:
        with open(path) as file:
            spec = json.load(file)
        spec.pop("rlimits", None)
        spec.get("process", {{}}).pop("rlimits", None)
        with open(path, "w") as file:
            json.dump(spec, file)
os.execv("{runc}", ["runc", *sys.argv[1:]])
"""
CONTAINERS = """[engine]
events_logger="file"
cgroup_manager="cgroupfs"
runtime="wrapped"
[engine.runtimes]
wrapped=["{wrapper}"]
"""


@contextlib.contextmanager
def registry_at(place: Path, **settings: Any) -> Iterator[str]:
    """A registry on loopback that keeps its data under `place`; its address. `settings`: more of its configuration."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    config = {
        "version": 0.1,
        "log": {"level": "error"},
        "storage": {"filesystem": {"rootdirectory": str(place / "registry")}},
        "http": {"addr": address},
        **settings,
    }
    (place / "registry.json").write_text(json.dumps(config))
    argv = ["docker-registry", "serve", str(place / "registry.json")]
    with subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            wait_until(lambda: _answers(address), "the registry answers")
            yield address
        finally:
            process.terminate()


def _answers(address: str) -> bool:
    host, _, port = address.partition(":")
    with contextlib.suppress(OSError), socket.create_connection((host, int(port)), 1):
        return True
    return False


@contextlib.contextmanager
def containers_at(place: Path) -> Iterator[dict[str, str]]:
    """The environment in which buildah and podman keep everything to themselves and run on any machine."""
    wrapper = place / "runtime"
    wrapper.write_text(RUNTIME.format(python=sys.executable, runc=shutil.which("runc")))
    wrapper.chmod(0o755)
    (place / "containers.conf").write_text(CONTAINERS.format(wrapper=wrapper))
    with tempfile.TemporaryDirectory(prefix="c") as short:  # podman takes no longer path for this
        storage = f'[storage]\ndriver="vfs"\ngraphroot="{place / "store"}"\nrunroot="{short}"\n'
        (place / "storage.conf").write_text(storage)
        yield {
            "BUILDAH_ISOLATION": "chroot",
            "CONTAINERS_CONF": str(place / "containers.conf"),
            "CONTAINERS_STORAGE_CONF": str(place / "storage.conf"),
        }


def run(*argv: str | Path, **environment: str) -> str:
    done = subprocess.run(
        list(map(str, argv)), capture_output=True, text=True, env={**os.environ, **environment}, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def share(node: Node, *arguments: str) -> str:
    done = node.run("share", *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def show(node: Node, link: str) -> dict[str, Any]:
    done = node.run("show", "--json", link)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def export(node: Node, link: str, *arguments: str) -> None:
    done = node.run("export", link, *arguments)
    assert done.returncode == 0, done.stderr
