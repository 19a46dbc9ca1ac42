"""Import libp2p without what it imports and nobody here uses: QUIC, WebSockets, TLS, its DHT, DNS (D26).

They are half of what importing it takes, in time and in memory. While the library is imported, stand-ins take their
places: packages that have any class, whose objects have nothing. Only parts of the library itself and of multiaddr are
left out: what others might import meanwhile must be the real thing. Afterwards the places are free again.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator, MutableSequence
from contextlib import contextmanager
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Final

_LEFT_OUT: Final = (
    "libp2p.bitswap",
    "libp2p.discovery",
    "libp2p.kad_dht",
    "libp2p.metrics",
    "libp2p.rcmgr.prometheus_exporter",
    "libp2p.security.secio",
    "libp2p.security.tls",
    "libp2p.transport.quic",
    "libp2p.transport.websocket",
    "multiaddr.resolvers",
)


class _StandIn(ModuleType):
    """Has whatever class is asked for, as an exception, so that it can be waited for; its objects can do nothing."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.__path__: MutableSequence[str] = []

    def __getattr__(self, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        made = type(name, (Exception,), {"__module__": self.__name__, "__init__": _take_anything})
        setattr(self, name, made)
        return made


def _take_anything(_self: object, *_: object, **__: object) -> None:
    pass


class _Finder(MetaPathFinder, Loader):
    """Finds stand-ins, for the thread that made it."""

    def __init__(self) -> None:
        self._thread = threading.get_ident()

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        is_left_out = any(name == each or name.startswith(f"{each}.") for each in _LEFT_OUT)
        if not is_left_out or threading.get_ident() != self._thread:
            return None
        return ModuleSpec(name, self, is_package=True)

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _StandIn(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        pass


@contextmanager
def left_out() -> Iterator[None]:
    """While this lasts, this thread's imports of what is left out give stand-ins."""
    finder = _Finder()
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        for name in [name for name, module in sys.modules.items() if isinstance(module, _StandIn)]:
            del sys.modules[name]
