"""The door to programs that speak for us: skopeo with registries, buildah for Dockerfiles, sqfs2tar and fuse2fs, which
read file system images so that the kernel need not.

They run as children that end with us, get no terminal, and write to a folder of our own; what they bring is verified as
anything else from outside. Registries' mirrors, policies and certificates are configured where these programs look for
them (/etc/containers). A password is never an argument: it travels in an auth file.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import IO, Final

import trio

from hyperlog.errors import Refused, StoreFull, Unavailable
from hyperlog.link import printable
from hypernode.errors import ToolFailed, ToolMissing
from hypernode.limits import TOOL_STALL_SECONDS
from images.errors import ImageSourceCorrupt, SourceTooLarge
from images.limits import UNPACKED_BYTES_MAX
from images.oci_image import Platform
from vmhost.host_probe import Purpose, require
from vmhost.mount_syscalls import clear_stale, in_mount_thread, mounted_at
from vmhost.process import ChildProcess, open_child
from vmhost.tree_view import detach_as_user

REGISTRY: Final = "docker://"
_REFERENCE: Final = re.compile(r"docker://[A-Za-z0-9][A-Za-z0-9._:/@-]{0,510}")
_POLICIES: Final = (Path("/etc/containers/policy.json"), Path("~/.config/containers/policy.json"))
_SAID_BYTES: Final = 8192
_SAID_CHARACTERS: Final = 600
_MESSAGE: Final = re.compile(r'msg="((?:[^"\\]|\\.)*)"')
_WATCH_SECONDS: Final = 0.2
_MOUNT_SECONDS: Final = 20.0

Report = Callable[[int], Awaitable[None]]


def check_reference(text: str) -> str:
    """A registry reference as skopeo takes it. Raises `Refused`."""
    if not _REFERENCE.fullmatch(text):
        raise Refused(f"{printable(text)} is no registry reference", "for example docker://registry.example/web:1.0")
    return text


async def copy_from_registry(
    reference: str, folder: Path, wanted: Platform, *, auth_file: str | None, insecure: bool, report: Report
) -> None:
    """Copy the image byte for byte into `folder` (made by this); `report` hears of the bytes there so far."""
    argv = [*_skopeo(), f"--override-os={wanted.os}", f"--override-arch={wanted.arch}"]
    argv += [f"--override-variant={wanted.variant}"] if wanted.variant else []
    argv += ["copy", "--quiet"]
    argv += ["--src-tls-verify=false"] if insecure else []
    argv += [f"--authfile={auth_file}"] if auth_file else []
    await _run([*argv, check_reference(reference), f"dir:{folder}"], lambda: _folder_bytes(folder), report)


async def copy_to_registry(source: str, reference: str, *, auth_file: str | None, insecure: bool) -> None:
    """Push `source` (a transport and a path of skopeo's)."""
    argv = [*_skopeo(), "copy", "--quiet"]
    argv += ["--dest-tls-verify=false"] if insecure else []
    argv += [f"--dest-authfile={auth_file}"] if auth_file else []
    await _run([*argv, source, check_reference(reference)])


async def build(
    directory: Path,
    folder: Path,
    *,
    file: str | None,
    target: str | None,
    arguments: Sequence[str],
    wanted: Platform,
    auth_file: str | None,
    report: Report,
) -> None:
    """Build the Dockerfile of `directory` with buildah; its image, layers and all, goes into `folder`.

    In Docker's format, because OCI's has no place for health checks. buildah's own store keeps its cache.
    """
    number = folder.with_suffix(".iid")
    argv = ["buildah", "build", "--format=docker", "--layers", f"--iidfile={number}", f"--platform={wanted.text}"]
    argv += [f"--file={file}"] if file else []
    argv += [f"--target={target}"] if target else []
    argv += [f"--build-arg={argument}" for argument in arguments]
    argv += [f"--authfile={auth_file}"] if auth_file else []
    await _run([*argv, "--", str(directory)])
    image = number.read_text().strip()
    number.unlink()
    await _run(
        ["buildah", "push", "--quiet", "--format=v2s2", image, f"dir:{folder}"], lambda: _folder_bytes(folder), report
    )


async def squashfs_to_tar(image: Path, tar: Path, report: Report) -> list[str]:
    """Write the tree of a squashfs image as a tar; what a tar cannot hold of it.

    Raises `ImageSourceCorrupt`, `SourceTooLarge`, `StoreFull`, `ToolMissing`.
    """
    if shutil.which("sqfs2tar") is None:
        raise ToolMissing("sqfs2tar is not installed, which reads squashfs", "apt-get install squashfs-tools-ng")
    argv = ["prlimit", f"--fsize={UNPACKED_BYTES_MAX}", "sqfs2tar", "--root-becomes=.", str(image)]
    try:
        with tar.open("wb") as output:
            said = await _run(argv, lambda: tar.stat().st_size, report, output=output.fileno())
    except ToolFailed as error:
        if os.stat(tar).st_size >= UNPACKED_BYTES_MAX:
            raise SourceTooLarge(f"the squashfs image unpacks to more than {UNPACKED_BYTES_MAX >> 30} GiB") from None
        if "No space left" in error.message:
            raise StoreFull("no space left to unpack the squashfs image", "free some space") from None
        words = error.message.partition(": ")[2]
        raise ImageSourceCorrupt(f"the squashfs image cannot be read: {words}") from None
    return [line.removeprefix("Skipping ") for line in said if line.startswith("Skipping ")]


@contextlib.asynccontextmanager
async def showing_ext(image: Path, place: Path) -> AsyncIterator[str]:
    """An ext2, 3 or 4 image as a directory at `place` (made by this), read by fuse2fs; ends with its reader.

    A reader that is cancelled must not wait for a program that an image keeps busy, so that is ended first. Raises
    `ImageSourceCorrupt`, `ToolMissing`, `HostUnfit`.
    """
    if shutil.which("fuse2fs") is None:
        raise ToolMissing("fuse2fs is not installed, which reads ext4", "apt-get install fuse2fs")
    require(Purpose.VIEW)
    os.mkdir(place, 0o700)
    with tempfile.TemporaryFile() as said:
        async with open_child(
            ["fuse2fs", "-f", "-o", "ro,fakeroot", str(image), str(place)],
            stdin=subprocess.DEVNULL,
            stdout=said.fileno(),
            stderr=subprocess.STDOUT,
            env=os.environ,
            death_signal=signal.SIGTERM,
        ) as child:
            try:
                with trio.move_on_after(_MOUNT_SECONDS):
                    while child.exit_status is None and mounted_at(str(place)) is None:
                        with trio.move_on_after(_WATCH_SECONDS):
                            await child.wait()
                if child.exit_status is not None or mounted_at(str(place)) is None:
                    raise ImageSourceCorrupt(f"the ext4 image cannot be read: {_last_words(said)}", "try e2fsck")
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(_end_when_cancelled, child)
                    yield str(place)
                    nursery.cancel_scope.cancel()
            finally:
                with trio.CancelScope(shield=True):
                    await in_mount_thread(partial(_unmount, str(place)))


async def _end_when_cancelled(child: ChildProcess) -> None:
    try:
        await trio.sleep_forever()
    finally:
        child.send_signal(signal.SIGKILL)


def _unmount(place: str) -> None:
    if os.geteuid() == 0:
        clear_stale(place)
    else:
        detach_as_user(place)


def _skopeo() -> list[str]:
    """skopeo wants a policy about signatures; where nobody made one, it is told that there is none."""
    known = any(policy.expanduser().exists() for policy in _POLICIES)
    return ["skopeo"] if known else ["skopeo", "--insecure-policy"]


async def _run(
    argv: Sequence[str],
    measure: Callable[[], int] | None = None,
    report: Report | None = None,
    output: int | None = None,
) -> list[str]:
    """Run a program to its end; the last lines that it said. One that stops making progress, if measured, is ended.

    `output`: a descriptor for its standard output. Raises `ToolMissing`, `ToolFailed` with the last that it said.
    """
    name = argv[0]
    if shutil.which(name) is None:
        raise ToolMissing(f"{name} is not installed", f"apt-get install {name}")
    with tempfile.TemporaryFile() as said:
        async with open_child(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=said.fileno() if output is None else output,
            stderr=said.fileno(),
            env=os.environ,
            death_signal=signal.SIGTERM,
        ) as child:
            async with trio.open_nursery() as nursery:
                if measure is not None and report is not None:
                    nursery.start_soon(_watch, name, measure, report)
                status = await child.wait()
                nursery.cancel_scope.cancel()
        if status:
            raise ToolFailed(f"{name} failed: {_last_words(said)}", "run it by hand to see more")
        return _end_of(said).splitlines()


async def _watch(name: str, measure: Callable[[], int], report: Report) -> None:
    seen, since = -1, trio.current_time()
    while True:
        now = await trio.to_thread.run_sync(measure)
        if now != seen:
            seen, since = now, trio.current_time()
            await report(now)
        elif trio.current_time() > since + TOOL_STALL_SECONDS:
            raise Unavailable(f"{name} brought nothing for {TOOL_STALL_SECONDS:g} s", "is the registry reachable?")
        await trio.sleep(_WATCH_SECONDS)


def _folder_bytes(folder: Path) -> int:
    total = 0
    with contextlib.suppress(FileNotFoundError), os.scandir(folder) as entries:
        for entry in entries:
            with contextlib.suppress(FileNotFoundError):  # renamed when it was whole
                total += entry.stat(follow_symlinks=False).st_size
    return total


def _end_of(said: IO[bytes]) -> str:
    end = said.seek(0, os.SEEK_END)
    said.seek(max(0, end - _SAID_BYTES))
    return said.read().decode("utf-8", "replace").strip()


def _last_words(said: IO[bytes]) -> str:
    """The end of what a program said, in one printable line."""
    text = _end_of(said)
    messages = _MESSAGE.findall(text)
    found = messages[-1].replace('\\"', '"') if messages else " | ".join(text.splitlines()[-3:])
    return "".join(c if c.isprintable() else " " for c in found[-_SAID_CHARACTERS:]) or "it said nothing"
