"""The addresses of this machine at which a listener on all interfaces can be dialled."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

import ifaddr


def dialable(listening: Iterable[str]) -> list[str]:
    """Replace unspecified addresses (`/ip4/0.0.0.0/tcp/N`) by those of the interfaces, loopback last."""
    found: list[str] = []
    for text in listening:
        _, kind, host, *rest = text.split("/")
        hosts = _hosts(kind) if ipaddress.ip_address(host).is_unspecified else [host]
        found += [f"/{kind}/{one}/{'/'.join(rest)}" for one in hosts]
    return list(dict.fromkeys(found))


def _hosts(kind: str) -> list[str]:
    addresses = [
        ipaddress.ip_address(one.ip if isinstance(one.ip, str) else one.ip[0])
        for adapter in ifaddr.get_adapters()
        for one in adapter.ips
    ]
    usable = {one for one in addresses if f"ip{one.version}" == kind and not one.is_link_local}
    return [str(one) for one in sorted(usable, key=lambda one: (one.is_loopback, int(one)))]
