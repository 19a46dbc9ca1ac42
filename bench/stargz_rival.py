"""stargz-snapshotter as a side of bench/coldboot.py: containerd with its lazy snapshotter, ctr-remote, runc.

Debian packages ctr-remote and the library, but not the daemon. So that is built here, once, in a root of its own from
Debian's packages (bench/stargz/main.go, some minutes, 1.2 GB meanwhile), and kept with the tests' other caches. The
image is converted as its makers advise for a known workload: `ctr-remote image optimize` runs the command and puts what
it reads first. containerd and the snapshotter run before the time begins, with an empty store in every round.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.support.cache import kept
from tests.support.container_tools import RUNTIME
from tests.support.netns import Namespace

PROGRAMS = ("containerd", "ctr-remote", "runc", "mmdebstrap")
_NAME = "bench/image"
_SOURCE = Path(__file__).parent / "stargz" / "main.go"
_PACKAGES = "golang-go,golang-github-containerd-stargz-snapshotter-dev,ca-certificates"
_CONFIG = """version = 2
root = "{0}/root"
state = "{0}/state"
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.snapshotter.v1.btrfs", \
"io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.devmapper"]
[grpc]
address = "{0}/containerd.sock"
[ttrpc]
address = "{0}/ttrpc.sock"
[proxy_plugins.stargz]
type = "snapshot"
address = "{0}/stargz.sock"
"""
_START = (
    'ctr-remote image rpull --plain-http "$1" >&2 && exec ctr-remote run --rm --snapshotter=stargz "$1" start "${@:2}"'
)


def daemon_program() -> Path:
    """The snapshotter's daemon, built the first time. Raises `subprocess.CalledProcessError`."""
    return kept(f"{_PACKAGES}\n{_SOURCE.read_text()}", _build) / "containerd-stargz-grpc"


def _build(place: Path) -> None:
    place.mkdir()
    root = place.parent / "build"
    argv = ["mmdebstrap", "--quiet", "--mode=root", "--variant=minbase", f"--include={_PACKAGES}", "bookworm"]
    subprocess.run([*argv, str(root)], check=True, stdin=subprocess.DEVNULL)
    shutil.copy(_SOURCE, root / "main.go")
    settings = {"GO111MODULE": "off", "GOPATH": "/usr/share/gocode", "GOCACHE": "/tmp/gocache", "HOME": "/root"}
    go = ["chroot", str(root), "go", "build", "-o", "/containerd-stargz-grpc", "/main.go"]
    subprocess.run(go, check=True, env={"PATH": os.environ["PATH"], **settings})
    shutil.copy2(root / "containerd-stargz-grpc", place)
    shutil.rmtree(root)


@contextlib.contextmanager
def containerd(folder: Path, host: Namespace) -> Iterator[dict[str, str]]:
    """containerd and the snapshotter on `host`, with nothing in them; the environment of who uses them."""
    folder.mkdir()
    (folder / "config.toml").write_text(_CONFIG.format(folder))
    (folder / "path").mkdir()
    wrapper = folder / "path" / "runc"
    wrapper.write_text(RUNTIME.format(python=sys.executable, runc=shutil.which("runc")))
    wrapper.chmod(0o755)
    environment = {"CONTAINERD_ADDRESS": f"{folder}/containerd.sock", "PATH": f"{wrapper.parent}:{os.environ['PATH']}"}
    argvs = (
        [str(daemon_program()), "-address", f"{folder}/stargz.sock", "-root", f"{folder}/stargz"],
        ["containerd", "-c", f"{folder}/config.toml"],
    )
    with contextlib.ExitStack() as stack, open(folder / "log", "wb") as log:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        for argv in argvs:
            process = stack.enter_context(
                subprocess.Popen([*host.enter, *argv], stdout=log, stderr=log, env={**os.environ, **environment})
            )
            stack.callback(process.terminate)
        stack.callback(_unmount, folder)
        _wait_answer(environment)
        yield environment


def _wait_answer(environment: dict[str, str]) -> None:
    deadline = time.monotonic() + 60
    argv = ["ctr-remote", "snapshots", "--snapshotter", "stargz", "ls"]
    while subprocess.run(argv, check=False, capture_output=True, env={**os.environ, **environment}).returncode:
        assert time.monotonic() < deadline, "containerd does not answer"
        time.sleep(0.05)


def _unmount(folder: Path) -> None:
    mounted = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines() if f" {folder}/" in line]
    for target in reversed(mounted):
        subprocess.run(["umount", "-l", target], check=False, stderr=subprocess.DEVNULL)


def convert(folder: Path, host: Namespace, address: str, command: Sequence[str]) -> bool:
    """Put the image of the registry at `address` there as eStargz too, optimised for `command`. Takes minutes.

    Returns whether that could be done: not with an image of layers one of which adds to directories of another.
    """
    plain, made = f"{address}/{_NAME}:latest", f"{address}/{_NAME}:estargz"
    words = ["--entrypoint", json.dumps(command[:1]), "--args", json.dumps(command[1:])]
    with containerd(folder / "convert", host) as environment:
        for argv in (
            ["pull", "--plain-http", plain],
            ["optimize", "--oci", "--period", "20", *words, plain, made],
            ["push", "--plain-http", made],
        ):
            done = subprocess.run(
                [*host.enter, "ctr-remote", "image", *argv],
                check=False,
                stdout=subprocess.DEVNULL,
                env={**os.environ, **environment},
            )
            if done.returncode:
                return False
    return True


def start_argv(address: str, command: Sequence[str]) -> list[str]:
    """Pull the image lazily and run `command` in it."""
    return ["bash", "-c", _START, "stargz", f"{address}/{_NAME}:estargz", *command]
