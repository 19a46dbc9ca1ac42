"""The addresses of this machine at which a listener on all interfaces can be dialled. Linux only, without a library."""

from __future__ import annotations

import array
import fcntl
import ipaddress
import socket
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Final

_SIOCGIFCONF: Final = 0x8912
_REQUEST: Final = struct.Struct("=16s4x4s16x")
"""`struct ifreq` on 64-bit Linux: name, then a sockaddr_in whose address begins at its fifth byte."""
_REQUESTS_MAX: Final = 256
_IF_INET6: Final = Path("/proc/net/if_inet6")

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address


def dialable(listening: Iterable[str]) -> list[str]:
    """Replace unspecified addresses (`/ip4/0.0.0.0/tcp/N`) by those of the interfaces, loopback last."""
    found: list[str] = []
    for text in listening:
        _, kind, host, *rest = text.split("/")
        hosts = _hosts(kind) if ipaddress.ip_address(host).is_unspecified else [host]
        found += [f"/{kind}/{one}/{'/'.join(rest)}" for one in hosts]
    return list(dict.fromkeys(found))


def _hosts(kind: str) -> list[str]:
    addresses: list[IpAddress] = [*(_ip4() if kind == "ip4" else _ip6())]
    usable = {one for one in addresses if not one.is_link_local}
    return [str(one) for one in sorted(usable, key=lambda one: (one.is_loopback, int(one)))]


def _ip4() -> list[ipaddress.IPv4Address]:
    requests = array.array("B", bytes(_REQUEST.size * _REQUESTS_MAX))
    address, _ = requests.buffer_info()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        answer = fcntl.ioctl(any_socket, _SIOCGIFCONF, struct.pack("@iP", len(requests), address))
    (length, _) = struct.unpack("@iP", answer)
    return [ipaddress.IPv4Address(raw) for _, raw in _REQUEST.iter_unpack(requests[:length].tobytes())]


def _ip6() -> list[ipaddress.IPv6Address]:
    try:
        lines = _IF_INET6.read_text().splitlines()
    except FileNotFoundError:  # no IPv6 in this kernel
        return []
    return [ipaddress.IPv6Address(bytes.fromhex(line.split()[0])) for line in lines]
