"""Directories of the host as a guest mounts them: virtiofs, each served by a virtiofsd of its own.

    QEMU ── vhost-user socket ──▶ virtiofsd ── in namespaces of its own, its root the directory ──▶ host's files

What the guest writes has reached the host's file system when its write returns (no write-back cache), and is on disk
when its fsync does: neither a killed machine nor a killed virtiofsd takes any of it back. Directories of 9p were the
other choice; Debian's cloud kernel has none, and overlayfs puts no layer on them. A disk image would be the machine's
alone: this host's kernel should not mount a file system that a guest made, so containers here could not go on with it.

Owners, permissions and set-id bits are kept, as the guest's root is to be able to write any file system; device nodes
cannot be made (no CAP_MKNOD), except overlayfs' whiteouts, which open nothing. For a layer trusted.* attributes are
let through, which takes CAP_SYS_ADMIN. Read-only is a mount of the host's, below what the guest could change.

A machine with such a directory cannot be saved: QEMU has no way to take the state of another process along.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Final

from hyperlog.errors import Refused
from vmhost.machines.errors import NoHypervisor
from vmhost.machines.qemu_argv import share_socket
from vmhost.machines.spec import SharedDirectory
from vmhost.process import ChildProcess, open_child

_PROGRAM: Final = "/usr/lib/qemu/virtiofsd"
_KERNELS: Final = ("/proc", "/sys", "/dev")
_BIND_READ_ONLY: Final = (
    *("unshare", "--mount", "sh", "-c"),
    'mount --bind "$1" "$1" && mount -o remount,bind,ro "$1" && shift && exec "$@"',
    "sh",
)


def check_shareable(path: str, secrets: Path) -> None:
    """Whether a machine may see the directory `path`. `secrets`: the home, which it may not.

    Raises `Refused` for what virtiofsd cannot show, or a guest's root would be this host's by.
    """
    real = Path(os.path.realpath(path))
    if not real.is_dir():
        raise Refused(
            f"{path} is no directory, and a virtual machine sees only those", "`hypernode cp` copies files in"
        )
    if any(real == Path(kernel) or Path(kernel) in real.parents for kernel in _KERNELS):
        raise Refused(
            f"{path} is this host's kernel, which a virtual machine is to be kept from", "with --isolation host"
        )
    home = Path(os.path.realpath(secrets))
    if real == home or real in home.parents or home in real.parents:
        raise Refused(
            f"{path} has the keys of this home in it, or is part of it",
            "bind another directory; --volume NAME:/inside is one that the home keeps",
        )


@asynccontextmanager
async def serving(
    shares: Sequence[SharedDirectory], directory: Path, *, nothing: int, errors: int
) -> AsyncIterator[list[ChildProcess]]:
    """Serve them on sockets in the machine's `directory`, which QEMU connects to. Their words go to `errors`.

    Raises NoHypervisor.
    """
    async with AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(_serving(*each, directory, nothing, errors)) for each in enumerate(shares)
        ]


@asynccontextmanager
async def _serving(
    place: int, share: SharedDirectory, directory: Path, nothing: int, errors: int
) -> AsyncIterator[ChildProcess]:
    if not os.access(_PROGRAM, os.X_OK) or shutil.which("unshare") is None:
        raise NoHypervisor(f"{_PROGRAM} is not installed, which shows directories to machines", hint="Debian 12's QEMU")
    with _listen(directory, share_socket(place)) as listening:
        starting = open_child(
            share_argv(share, listening.fileno()),
            stdin=nothing,
            stdout=errors,
            stderr=errors,
            env={"PATH": os.defpath, "LC_ALL": "C"},
            death_signal=signal.SIGKILL,  # the one inside its namespaces follows it
            pass_fds=(listening.fileno(),),
        )
        async with starting as child:
            listening.close()  # whoever connects once it has ended is told
            yield child


def share_argv(share: SharedDirectory, listening: int) -> list[str]:
    """virtiofsd's command line (that of QEMU 7). Pure."""
    source = share.path.replace("\\", "\\\\").replace(",", "\\,")
    argv = [
        _PROGRAM,
        "-f",
        f"--fd={listening}",
        "-o", f"source={source}",
        "-o", "sandbox=namespace",
        "-o", "log_level=err",
        "-o", f"cache={'always' if share.is_layer else 'auto'}",
        "-o", "xattr",
        "-o", f"modcaps={'+sys_admin:' if share.is_layer else ''}-mknod",
    ]  # fmt: skip
    return [*_BIND_READ_ONLY, share.path, *argv] if share.read_only else argv


def _listen(directory: Path, name: str) -> socket.socket:
    """A socket there, whose address may be longer than one can be."""
    (directory / name).unlink(missing_ok=True)
    descriptor = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        listening.bind(f"/proc/self/fd/{descriptor}/{name}")
        os.chmod(directory / name, 0o600)
        listening.listen(1)
    except BaseException:
        listening.close()
        raise
    finally:
        os.close(descriptor)
    return listening
