"""An image as a directory: EROFS on top of served blobs, and overlayfs for what is written.

Each context manager undoes what it did, whatever happens inside, in a shielded scope of bounded length. Order
matters on the way out: first the blobs stop being served (reads that wait fail now, else unmounting would wait for
locked pages in D state), then the mount goes, at worst detached.
"""

from __future__ import annotations

import errno
import os
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import ExitStack, asynccontextmanager
from enum import Enum
from functools import partial
from typing import Final

import trio

from vmhost import limits
from vmhost.blob_files import BlobFile
from vmhost.blob_server import BlobServer
from vmhost.errors import MountFailed
from vmhost.loop_device import attach_loop
from vmhost.mount_syscalls import (
    MS_NODEV,
    MS_NOSUID,
    MS_RDONLY,
    MS_REMOUNT,
    in_mount_thread,
    mount,
    plain_path,
    unmount_patiently,
)
from vmhost.read_ahead import ReadAhead, single_pages

READ_ONLY_VIEW: Final = MS_NOSUID
"""Extra flags of a mount that people look at (`hypernode mount`): set-id files have no effect there."""
CONTAINER_LOWER: Final = 0
"""Extra flags of a container's lower: set-id programs and file capabilities must work inside it.

Every mount here has MS_NODEV: device nodes of an image are visible as inodes and cannot be opened, also not inside
the container, which has the /dev that nspawn makes. An image could otherwise bring a node of the host's disk.
"""
_LOWER_FLAGS: Final = CONTAINER_LOWER | MS_RDONLY | MS_NODEV


class Backing(Enum):
    """What EROFS reads from."""

    FILES = "files"  # kernel 6.12 and later
    LOOPS = "loops"


@asynccontextmanager
async def mount_image(
    server: BlobServer,
    blobs: Sequence[tuple[str, BlobFile]],
    *,
    files: Sequence[str] = (),
    metadata_path: str,
    target: str,
    flags: int,
    backing: Backing | None = None,
    read_ahead: ReadAhead | None = None,
) -> AsyncIterator[str]:
    """Mount the EROFS metadata file at `target`, its data devices 1, 2, … being `blobs` (name, blob) in this order, or
    plain `files` instead.

    Read-only and nodev always; `flags` are READ_ONLY_VIEW or CONTAINER_LOWER. `backing` None: files, or
    loop devices where the kernel takes nothing else. The server must be running. Raises MountFailed.
    """
    served: list[str] = []
    try:
        devices = list(files)
        for name, blob in blobs:
            devices.append(server.add(name, blob))
            served.append(name)
        mounting = partial(
            _mount_erofs, metadata_path, devices, target, flags | MS_RDONLY | MS_NODEV, backing, not files
        )
        await in_mount_thread(partial(_mount_tuned, read_ahead or ReadAhead(), mounting))
        try:
            yield target
        finally:
            with trio.move_on_after(limits.CLOSE_SECONDS, shield=True):
                _stop_serving(server, served)
                await unmount_patiently(target)
    finally:
        _stop_serving(server, served)


def _mount_tuned(read_ahead: ReadAhead, mounting: Callable[[], None]) -> None:
    with read_ahead.mounting():
        mounting()


def read_through_cache(target: str) -> None:
    """Have a container's lower read through the page caches of its blobs, where somebody puts what it will want.

    Single pages are asked for then: see `single_pages`. Raises OSError.
    """
    mount("", target, "", MS_REMOUNT | _LOWER_FLAGS)


def read_past_cache(target: str, blob: str) -> None:
    """Undo that, and free the cache of the file `blob`: EROFS has a page cache of its own. Raises OSError."""
    mount("", target, "", MS_REMOUNT | _LOWER_FLAGS, "directio")
    descriptor = os.open(blob, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)


@asynccontextmanager
async def inherit_image(
    server: BlobServer, blobs: Sequence[tuple[str, BlobFile, int]], target: str
) -> AsyncIterator[str]:
    """The EROFS that stands at `target` since before this process, and must; on leaving it is undone as above.

    `blobs`: (name, blob, FUSE node id) of each device. The server need not run yet.
    """
    served: list[str] = []
    try:
        for name, blob, node in blobs:
            server.add(name, blob, node=node)
            served.append(name)
        try:
            yield target
        finally:
            with trio.move_on_after(limits.CLOSE_SECONDS, shield=True):
                _stop_serving(server, served)
                await unmount_patiently(target)
    finally:
        _stop_serving(server, served)


@asynccontextmanager
async def standing(target: str) -> AsyncIterator[str]:
    """What stands mounted at `target` since before this process, if anything; unmounted on leaving."""
    try:
        yield target
    finally:
        with trio.move_on_after(limits.CLOSE_SECONDS, shield=True):
            await unmount_patiently(target)


def _stop_serving(server: BlobServer, names: list[str]) -> None:
    while names:
        server.remove(names.pop())


def _mount_erofs(
    metadata_path: str, devices: Sequence[str], target: str, flags: int, backing: Backing | None, is_direct: bool
) -> None:
    os.makedirs(target, exist_ok=True)
    try:
        if backing is Backing.LOOPS:
            _mount_erofs_loops(metadata_path, devices, target, flags)
        else:
            _mount_erofs_files(metadata_path, devices, target, flags, is_direct)
    except OSError as error:
        if error.errno == errno.ENOTBLK and backing is None:  # a kernel that takes block devices only
            _mount_erofs(metadata_path, devices, target, flags, Backing.LOOPS, is_direct)
            return
        raise MountFailed(
            f"cannot mount EROFS at {target}: {error.strerror}", hint="dmesg has the kernel's reason"
        ) from error


def _mount_erofs_files(metadata_path: str, devices: Sequence[str], target: str, flags: int, is_direct: bool) -> None:
    with ExitStack() as stack:
        plain = [stack.enter_context(plain_path(path)) for path in devices]
        if is_direct and devices:
            try:
                # A page cache under that of EROFS would hold everything twice, and its read-ahead cross file borders,
                # so that each boot moved bytes nobody reads, and not even the same ones twice. (A plain file's cache is
                # worth it: it is there for the next mount.)
                with single_pages(devices[0]):
                    mount(metadata_path, target, "erofs", flags, f"directio,{_device_options(plain)}")
                return
            except OSError as error:
                if error.errno != errno.EINVAL:  # a kernel before 6.15 does not know the option
                    raise
        mount(metadata_path, target, "erofs", flags, _device_options(plain))


def _mount_erofs_loops(metadata_path: str, devices: Sequence[str], target: str, flags: int) -> None:
    with ExitStack() as stack:
        metadata = stack.enter_context(attach_loop(metadata_path))
        loops = [stack.enter_context(attach_loop(path)) for path in devices]
        mount(metadata, target, "erofs", flags, _device_options(loops))


def _device_options(paths: Sequence[str]) -> str:
    return ",".join(f"device={path}" for path in paths)


@asynccontextmanager
async def mount_overlay(lower: str, *, upper: str, work: str, target: str) -> AsyncIterator[str]:
    """`lower` with writes going to `upper`, at `target`. `work`: an empty directory on the file system of `upper`.

    With metacopy, so that chown and chmod of a big file copy, and so fetch, none of its data. Set-id works, device
    nodes do not. Raises MountFailed.
    """
    await in_mount_thread(partial(_mount_overlay, lower, upper, work, target))
    try:
        yield target
    finally:
        with trio.move_on_after(limits.CLOSE_SECONDS, shield=True):
            await unmount_patiently(target)


def _mount_overlay(lower: str, upper: str, work: str, target: str) -> None:
    for directory in (upper, work, target):
        os.makedirs(directory, exist_ok=True)
    with plain_path(lower) as low, plain_path(upper) as up, plain_path(work) as scratch:
        options = f"lowerdir={low},upperdir={up},workdir={scratch},metacopy=on,index=off"
        try:
            mount("hypernode", target, "overlay", MS_NODEV, options)
        except OSError as error:
            raise MountFailed(
                f"cannot mount overlayfs at {target}: {error.strerror}",
                hint="the upper directory must not itself lie on overlayfs, NFS or FUSE; see dmesg",
            ) from error


@asynccontextmanager
async def mount_tmpfs(target: str, *, size_bytes: int) -> AsyncIterator[str]:
    """An empty file system in memory (and swap), for a writable upper that ends with the container."""
    options = f"size={size_bytes},mode=0755"
    await in_mount_thread(partial(_mount_tmpfs, target, options))
    try:
        yield target
    finally:
        with trio.move_on_after(limits.CLOSE_SECONDS, shield=True):
            await unmount_patiently(target)


def _mount_tmpfs(target: str, options: str) -> None:
    os.makedirs(target, exist_ok=True)
    try:
        mount("hypernode", target, "tmpfs", MS_NODEV | MS_NOSUID, options)
    except OSError as error:
        raise MountFailed(f"cannot mount tmpfs at {target}: {error.strerror}") from error
