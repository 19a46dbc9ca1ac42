"""Network namespaces by descriptor: made, and entered for a moment. Blocks: use `trio.to_thread`."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, TypeVar

from vmhost.errors import HostUnfit

_CLONE_NEWNET: Final = 0x40000000
_libc: Final = ctypes.CDLL(None, use_errno=True)
_T = TypeVar("_T")


def make_network(settings: dict[str, str]) -> int:
    """A new network, as a descriptor, all that holds it. `settings`: of /proc/sys/net/ipv4. Raises HostUnfit."""
    with _coming_back():
        if _libc.unshare(_CLONE_NEWNET) != 0:
            raise HostUnfit(f"no network can be made for it: {os.strerror(ctypes.get_errno())}", "run it as root")
        for name, text in settings.items():
            Path(f"/proc/sys/net/ipv4/{name}").write_text(text)
        return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)


def in_network(descriptor: int, function: Callable[[], _T]) -> _T:
    """What `function` returns there. `descriptor`: of the network, or the pidfd of a process in it. Raises OSError."""
    with _coming_back():
        if _libc.setns(descriptor, _CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), "cannot enter the container's network")
        return function()


@contextmanager
def _coming_back() -> Iterator[None]:
    outside = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield
    finally:
        if _libc.setns(outside, _CLONE_NEWNET) != 0:
            os._exit(1)  # a thread that is lost inside would let anything leak into it
        os.close(outside)
