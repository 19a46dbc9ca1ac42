"""How others start the same image over the same wire: what they need on the serving host, and the command that starts.

*podman*: `podman run` of an image it does not have, from a registry: all layers are pulled, unpacked, started.
*nbd*: the tree as one squashfs (zstd), read lazily through HTTP ranges: nbdkit's curl plugin with read-ahead, nbdfuse,
a loop mount, an overlay, chroot. No container around it and nothing verified; the strongest single-server lazy loader
that Debian has.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.stargz_rival import PROGRAMS as STARGZ_PROGRAMS
from tests.support.container_tools import containers_at
from tests.support.netns import Namespace

_REGISTRY_PORT = 5000
_NAME = "bench/image"
_NBD_SCRIPT = """
set -e
mkdir -p low up work root; touch disk
nbdfuse -r disk [ nbdkit -r --filter=readahead curl "$1" ] 2>nbd.log & served=$!
trap 'umount -l root low 2>/dev/null || true; kill $served 2>/dev/null || true; wait' EXIT
shift
until [ -s disk ]; do kill -0 $served; sleep 0.01; done
mount -t squashfs -o loop,ro disk low
mount -t overlay -o lowerdir=low,upperdir=up,workdir=work overlay root
mount -t proc proc root/proc
chroot root "$@"
umount root/proc
"""


@dataclass(frozen=True)
class Registry:
    """A registry on a host; `relayed` is where the other host finds it."""

    host: Namespace
    relayed: str
    environment: dict[str, str]

    def push_layout(self, layout: str) -> None:
        """Copy an OCI image (as skopeo names it) here, its layers compressed as registries have them."""
        argv = ["skopeo", "copy", "--quiet", "--dest-tls-verify=false", "--dest-compress-format", "gzip", layout]
        target = f"docker://{self.host.address}:{_REGISTRY_PORT}/{_NAME}:latest"
        subprocess.run([*self.host.enter, *argv, target], check=True, env={**os.environ, **self.environment})

    def push_file(self, path: Path) -> str:
        """Put a file here as a blob; the path of its URL. Served with HTTP ranges."""
        script = (
            f"import sys; from bench.rivals import upload; sys.stdout.write(upload({self.host.address!r}, sys.argv[1]))"
        )
        python = shutil.which("python3") or "python3"
        done = subprocess.run(
            [*self.host.enter, python, "-c", script, path],
            check=True,
            text=True,
            stdout=subprocess.PIPE,
            cwd=Path(__file__).parents[1],
        )
        return done.stdout


def upload(address: str, path: str) -> str:
    """Upload a blob to the registry on this host."""
    with open(path, "rb") as file:
        digest = "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()
        file.seek(0)
        connection = http.client.HTTPConnection(address, _REGISTRY_PORT)
        connection.request("POST", f"/v2/{_NAME}/blobs/uploads/")
        answer = connection.getresponse()
        answer.read()
        place = (answer.getheader("Location") or "").partition(f":{_REGISTRY_PORT}")[2]
        size = {"Content-Length": str(os.path.getsize(path)), "Content-Type": "application/octet-stream"}
        connection.request("PUT", f"{place}&digest={digest}", body=file, headers=size)
        answer = connection.getresponse()
        answer.read()
        assert answer.status == 201, answer.status
    return f"/v2/{_NAME}/blobs/{digest}"


@contextlib.contextmanager
def registry(folder: Path, host: Namespace, relayed_port: int) -> Iterator[Registry]:
    """A registry on `host`, which others reach at `relayed_port`."""
    config = {
        "version": 0.1,
        "log": {"level": "error"},
        "storage": {"filesystem": {"rootdirectory": str(folder / "registry")}},
        "http": {"addr": f"{host.address}:{_REGISTRY_PORT}"},
    }
    (folder / "registry.json").write_text(json.dumps(config))
    argv = [*host.enter, "docker-registry", "serve", str(folder / "registry.json")]
    with contextlib.ExitStack() as stack:
        environment = stack.enter_context(containers_at(folder))
        storage = Path(environment["CONTAINERS_STORAGE_CONF"])
        storage.write_text(storage.read_text().replace('driver="vfs"', 'driver="overlay"'))
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        process = stack.enter_context(subprocess.Popen(argv, **quiet))  # type: ignore[call-overload]
        stack.callback(process.terminate)
        _wait_answer(host)
        yield Registry(host, f"{host.address}:{relayed_port}", environment)


REGISTRY_PORT = _REGISTRY_PORT


def _wait_answer(host: Namespace) -> None:
    deadline = time.monotonic() + 30
    probe = f"exec 3<>/dev/tcp/{host.address}/{_REGISTRY_PORT}"
    while subprocess.run([*host.enter, "bash", "-c", probe], check=False, stderr=subprocess.DEVNULL).returncode:
        assert time.monotonic() < deadline, "the registry does not answer"
        time.sleep(0.05)


def podman_argv(folder: Path, relayed: str, command: Sequence[str]) -> list[str]:
    """`podman run` into an empty store in `folder`."""
    return [
        *("podman", "--root", str(folder / "root"), "--runroot", str(folder / "run"), "--storage-driver", "overlay"),
        *("run", "--rm", "--quiet", "--network", "none", "--tls-verify=false", "--entrypoint", command[0]),
        *(f"{relayed}/{_NAME}:latest", *command[1:]),
    ]


def clear_podman(folder: Path) -> None:
    """Undo what a run of podman left in `folder`."""
    for name in ("root/overlay", "root", "run"):
        subprocess.run(["umount", "-l", folder / name], check=False, stderr=subprocess.DEVNULL)
    shutil.rmtree(folder, ignore_errors=True)


def make_squashfs(root: Path, path: Path) -> None:
    """The tree as a squashfs."""
    argv = ["mksquashfs", str(root), str(path), "-comp", "zstd", "-Xcompression-level", "15", "-no-progress", "-quiet"]
    subprocess.run(argv, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def nbd_argv(url: str, command: Sequence[str]) -> list[str]:
    """Mount the squashfs at `url` in the current directory and run `command` on it."""
    return ["unshare", "--mount", "bash", "-c", _NBD_SCRIPT, "nbd", url, *command]


def available() -> set[str]:
    """The rivals whose programs are installed."""
    needed = {
        "podman": ("podman", "docker-registry", "skopeo"),
        "stargz": ("podman", "docker-registry", "skopeo", *STARGZ_PROGRAMS),
        "nbd": ("nbdkit", "nbdfuse", "mksquashfs", "docker-registry"),
    }
    return {name for name, programs in needed.items() if all(map(shutil.which, programs))}
