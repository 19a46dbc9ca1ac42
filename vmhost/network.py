"""The network of a container on this host: none but its loopback, this host's own, or its own with a way out.

The way out is slirp4netns, a TCP/IP stack in a process of ours: to the world, the container's connections are sockets
of that process. No address, route or filter of this host is changed; process and namespace go with us, killed or not:
it dies by a signal, and nothing but descriptors holds the namespace. It is the stack of QEMU's user network, so a
container sees the same here as in a virtual machine, whose QEMU runs in such a namespace:

    10.0.2.0/24     its network; 10.0.2.2 is the way out, 10.0.2.3 a name server that asks this host's
    127.0.0.1       of this host is not reached

The namespace is made before the container and is the host's, not the container's users': root inside cannot change
addresses or filters, but may bind low ports and ping. nspawn cannot join a namespace together with users of the
container's own, so it is started within it.
"""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import replace
from pathlib import Path
from signal import SIGKILL
from typing import Final

import trio

from vmhost import limits
from vmhost.errors import HostUnfit
from vmhost.network_namespace import make_network
from vmhost.nspawn import Bind, NspawnSpec
from vmhost.process import ChildProcess, open_child

_PROGRAM: Final = "slirp4netns"
_APART: Final = ("unshare", "--mount", "--propagation=slave", "--")
"""Its sandbox unmounts what it does not need; where mounts are shared (/run/netns) that would reach the host."""
_DEVICE: Final = "tap0"
NAME_SERVER: Final = "10.0.2.3"
RESOLV_CONF: Final = "/etc/resolv.conf"
_SETTINGS: Final = {"ip_unprivileged_port_start": "0", "ping_group_range": "0 2147483647"}
"""What Docker and podman give as well: the container's root is nobody to this namespace."""
_log: Final = logging.getLogger(__name__)


@asynccontextmanager
async def networked(spec: NspawnSpec) -> AsyncIterator[NspawnSpec]:
    """`spec` with the network that it asks for, and a /etc/resolv.conf that fits it. Raises HostUnfit."""
    if not (spec.host_network or spec.user_network):
        yield spec
        return
    with _resolv_conf(spec) as seeing:
        if not spec.user_network:
            yield seeing
            return
        async with user_network() as namespace:
            yield replace(seeing, network_namespace=namespace)


@contextmanager
def _resolv_conf(spec: NspawnSpec) -> Iterator[NspawnSpec]:
    """Bound over the image's, unless something else is: an image's own speaks of where it was made."""
    if any(bind.target == RESOLV_CONF for bind in spec.binds):
        yield spec
        return
    path = Path(os.path.dirname(spec.root), "resolv.conf")  # where the caller clears up after a crash
    path.write_bytes(_words(spec))
    path.chmod(0o644)
    try:
        yield replace(spec, binds=(*spec.binds, Bind(str(path), RESOLV_CONF, read_only=True)))
    finally:
        path.unlink(missing_ok=True)


def _words(spec: NspawnSpec) -> bytes:
    if spec.user_network:
        return f"nameserver {NAME_SERVER}\n".encode()
    try:
        return Path(RESOLV_CONF).read_bytes()
    except OSError:
        return b""


@asynccontextmanager
async def user_network() -> AsyncIterator[str]:
    """A namespace with a way out, as a path."""
    if shutil.which(_PROGRAM) is None:
        raise HostUnfit(
            f"{_PROGRAM} is not installed, which a container's way out needs",
            f"apt-get install {_PROGRAM}; or choose --net none or --net host",
        )
    with ExitStack() as stack:
        namespace = await trio.to_thread.run_sync(make_network, _SETTINGS)
        stack.callback(os.close, namespace)
        ready, telling = os.pipe2(os.O_CLOEXEC)
        stack.callback(os.close, ready)
        said, saying = os.pipe2(os.O_CLOEXEC)
        stack.callback(os.close, said)
        with ExitStack() as theirs:
            theirs.callback(os.close, telling)
            theirs.callback(os.close, saying)
            child = open_child(
                [
                    *_APART,
                    _PROGRAM,
                    "--configure",
                    f"--mtu={limits.USER_NETWORK_MTU}",
                    "--disable-host-loopback",
                    "--enable-sandbox",
                    f"--ready-fd={telling}",
                    "--netns-type=path",
                    f"/proc/self/fd/{namespace}",
                    _DEVICE,
                ],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=saying,
                env={"PATH": os.environ.get("PATH", os.defpath)},
                death_signal=SIGKILL,
                pass_fds=(namespace, telling),
            )
            async with child as process:
                theirs.close()
                await _wait_ready(ready, process, said)
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(_attend, said)
                    yield f"/proc/{os.getpid()}/fd/{namespace}"
                    nursery.cancel_scope.cancel()


async def _wait_ready(ready: int, process: ChildProcess, said: int) -> None:
    with trio.move_on_after(limits.ENTER_SECONDS):
        await trio.lowlevel.wait_readable(ready)
        if os.read(ready, 1):
            return
        await process.wait()
    os.set_blocking(said, False)
    try:
        words = os.read(said, limits.VIEW_WORDS_BYTES).decode("utf-8", "replace").strip().rpartition("\n")[2]
    except BlockingIOError:
        words = ""
    raise HostUnfit(
        f"{_PROGRAM} could not make a way out: {words or 'it said nothing'}",
        "it needs /dev/net/tun; --net none and --net host do not",
    )


async def _attend(said: int) -> None:
    """Read what it says, so that it need not wait; its end is told."""
    async with trio.lowlevel.FdStream(os.dup(said)) as stream:
        last = b""
        while data := await stream.receive_some(limits.RELAY_BYTES):
            last = bytes(data)
    words = last.decode("utf-8", "replace").strip().rpartition("\n")[2]
    _log.warning("the container's way out has ended: %s", words or "it said nothing")
