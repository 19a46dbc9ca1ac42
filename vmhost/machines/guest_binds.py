"""What a container in a guest is shown besides its root, so that it sees the same as on this host.

What the image has in /run, where nspawn mounts a tmpfs: by way of a second mount of that directory, since the first
lies under the tmpfs by then. And a /etc/resolv.conf that fits the network that it has.
"""

from __future__ import annotations

from typing import Final

from vmhost.agent.client import Agent
from vmhost.errors import ContainerFailed
from vmhost.limits import RUN_NAMES_MAX
from vmhost.machines.output import collect
from vmhost.network import NAME_SERVER, RESOLV_CONF
from vmhost.nspawn import Bind, NspawnSpec

_PREPARE: Final = r"""
root=$0 again=$1 server=$2 settled=$3
if [ "$server" ]; then
    for _ in $(seq 50); do [ -s /run/resolv.conf ] && break; sleep 0.1; done
    echo "nameserver $server" >"$settled"
    [ -L "$root/etc" ] || [ -L "$root/etc/resolv.conf" ] || [ -e "$root/etc/resolv.conf" ] || {
        mkdir -p "$root/etc" && : >"$root/etc/resolv.conf"
    }
fi
[ -d "$root/run" ] && [ ! -L "$root/run" ] || exit 0
mkdir -p "$again" && mount -o bind "$root/run" "$again" && cd "$again" || exit 1
for name in .[!.]* *; do
    [ -L "$name" ] && continue
    case $name in host | systemd | hypernode) continue ;; esac
    if [ -d "$name" ] || [ -f "$name" ]; then printf '%s\0' "$name"; fi
done
"""
"""The network is waited for, five seconds at most: DHCP may still be asking. Links are not followed: they would lead to
the guest's own files."""


async def guest_binds(agent: Agent, spec: NspawnSpec, root: str, place: str, *, network: bool) -> list[Bind]:
    """Make them in the guest, where `root` is the image's and `place` a directory of ours. Raises ContainerFailed."""
    server = NAME_SERVER if network and all(bind.target != RESOLV_CONF for bind in spec.binds) else ""
    again, settled = f"{place}/image-run", f"{place}/resolv.conf"
    async with await agent.exec(["sh", "-c", _PREPARE, root, again, server, settled]) as preparing:
        names = (await collect(preparing.stdout)).decode("utf-8", "replace").split("\0")[:-1]
        if await preparing.wait() or len(names) > RUN_NAMES_MAX:
            raise ContainerFailed(f"the image's /run cannot be shown: {len(names)} names, {RUN_NAMES_MAX} at most")
    found = [Bind(f"{again}/{name}", f"/run/{name}") for name in sorted(names)]
    return [*found, Bind(settled, RESOLV_CONF, read_only=True)] if server else found
