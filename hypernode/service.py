"""The systemd unit of a daemon: text only, so that it can be looked at before anything is written.

What systemd could still take away from the service, and why it may not:

- Anything that gives the service mounts of its own (ProtectSystem, ProtectHome, PrivateTmp, PrivateDevices,
  ProtectKernelTunables, ReadOnlyPaths, …): what the daemon mounts would then not be seen by the commands and containers
  outside of the service, which is what it mounts for.
- Filters of system calls (SystemCallFilter, RestrictNamespaces, RestrictAddressFamilies, LockPersonality,
  MemoryDenyWriteExecute, RestrictRealtime, RestrictSUIDSGID, ProtectClock, ProtectHostname, …) and NoNewPrivileges:
  they would hold in containers too, which are its children when nobody waits for them, where programs use namespaces,
  personalities, compilers at run time, and sudo. systemd-nspawn sets a filter of its own for each container. And a boot
  is only handed to a process that has the same rights as the command (cli/starter.py): every boot would be slower.
- User: mounting, and containers with their users, need root.
- Capabilities that systemd-nspawn gives to containers, or that mounting, networks and looking after containers need.
  The others are taken away; the starter knows that these make no difference.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

MARK: Final = "# Written by `hypernode install-service`; it is written anew when that runs again."

UNUSED_CAPABILITIES: Final = {
    "CAP_SYS_MODULE": 16,
    "CAP_SYS_RAWIO": 17,
    "CAP_SYS_PACCT": 20,
    "CAP_SYS_TIME": 25,
    "CAP_MAC_OVERRIDE": 32,
    "CAP_MAC_ADMIN": 33,
    "CAP_SYSLOG": 34,
    "CAP_WAKE_ALARM": 35,
    "CAP_BLOCK_SUSPEND": 36,
    "CAP_PERFMON": 38,
    "CAP_BPF": 39,
    "CAP_CHECKPOINT_RESTORE": 40,
}
"""Name → number (linux/capability.h) of what neither the node nor systemd-nspawn nor any container of it uses."""

_SYSTEM: Final = """\
{mark}
[Unit]
Description=hypernode, which shares and boots container images peer to peer
Documentation=man:hypernode(1) man:hypernode-daemon(1)
Wants=network-online.target
After=network-online.target

[Service]
Type=notify
ExecStart={command}
Restart=on-failure
RestartSec=2
TimeoutStartSec=300
TimeoutStopSec=60

# A daemon that fails takes no container along: the next one goes on with them. So nothing but the daemon is ended
# here; told to stop, it ends its containers itself.
KillMode=process
# Their control groups are made below the service's.
Delegate=yes
TasksMax=infinity
OOMPolicy=continue

# {state}, for nobody but root.
StateDirectory=hypernode
StateDirectoryMode=0700
UMask=0077
LimitNOFILE=524288
# Keys must not end up in core dumps, nor others' keys here.
LimitCORE=0
KeyringMode=private

# What neither the node nor a container uses.
CapabilityBoundingSet={capabilities}

# Left open, because containers need it or because mounts must be seen outside of the service:
# mounts of its own (ProtectSystem=, ProtectHome=, PrivateTmp=, PrivateDevices=, ProtectKernelTunables=,
#   ProtectControlGroups=): what the daemon mounts is for commands and containers outside of it.
ProtectSystem=no
ProtectHome=no
PrivateTmp=no
PrivateDevices=no
# User=: mounting and containers need root.
# NoNewPrivileges=: sudo and su inside of containers.
NoNewPrivileges=no
# SystemCallFilter=, RestrictNamespaces=, RestrictAddressFamilies=, MemoryDenyWriteExecute=, …: systemd-nspawn filters
#   system calls for each container; a filter here would be in all of them, and no boot could be handed to the daemon.
RestrictNamespaces=no
# DevicePolicy=: /dev/fuse, /dev/kvm, loop devices, and device nodes in images.
DevicePolicy=auto

[Install]
WantedBy=multi-user.target
"""

_USER: Final = """\
{mark}
[Unit]
Description=hypernode, which shares container images peer to peer
Documentation=man:hypernode(1) man:hypernode-daemon(1)

[Service]
Type=notify
ExecStart={command}
Restart=on-failure
RestartSec=2
TimeoutStartSec=300
TimeoutStopSec=60
UMask=0077
LimitCORE=0
# Left open: for a user's service systemd can restrict nothing without NoNewPrivileges=, and then fusermount3, which is
# setuid, could mount nothing; and a view that is mounted must be seen by the user's other programs.
NoNewPrivileges=no

[Install]
WantedBy=default.target
"""


def make_unit(argv: Sequence[str], *, state: str | None) -> str:
    """The unit that runs `argv`: of the system with its data in `state`, or of a user (None)."""
    command = " ".join(map(_quoted, argv))
    if state is None:
        return _USER.format(mark=MARK, command=command)
    return _SYSTEM.format(mark=MARK, command=command, state=state, capabilities="~" + " ".join(UNUSED_CAPABILITIES))


def _quoted(word: str) -> str:
    """A word of ExecStart: `%` and `$` stand for themselves, and so do blanks and quotes."""
    escaped = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return f'"{escaped}"' if any(one in word for one in " \t\"'\\;") else escaped
