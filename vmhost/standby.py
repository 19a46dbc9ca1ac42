"""A process that waits in the control groups of a container for what it is to become.

To move a process into a control group the kernel waits for every processor (an RCU grace period, some 12 ms), and that
needs none of the container's files. So while those are fetched and mounted, a shell enters the groups, with the
streams that nspawn will have, and waits. The command comes in a memory file: all of it at once, however long. Both are
read through this process' entry in /proc, so nspawn inherits nothing.
"""

from __future__ import annotations

import os
import shlex
import signal
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager
from typing import Final

import trio

from vmhost.cgroup import ContainerGroup, clear_group
from vmhost.container_streams import ContainerStreams
from vmhost.host_probe import require_root
from vmhost.nspawn import Limits, nspawn_environment
from vmhost.process import ChildProcess, check_installed, open_child

_FAILED: Final = 125
_WAIT: Final = (
    f'[ "$PPID" = "$1" ] || exit {_FAILED}; '  # else we were killed before it could be told to die with us
    f'ready=$2 script=$3; shift 3; for group; do echo 0 >"$group" || exit {_FAILED}; done; '
    f'read -r word <"/proc/$PPID/fd/$ready" || exit {_FAILED}; . "/proc/$PPID/fd/$script"'
)


class Standby:
    """Control groups, streams, and a process that has both. `end` ends all in the groups, and removes them."""

    def __init__(
        self, group: ContainerGroup, streams: ContainerStreams, child: ChildProcess, script: int, go: int
    ) -> None:
        self.group = group
        self.streams = streams
        self.child = child
        self._script = script
        self._go = go

    def become(self, argv: Sequence[str], environment: Mapping[str, str]) -> None:
        """Have it run `argv`, its environment nspawn's own and this."""
        words = [f"export {name}={shlex.quote(value)}" for name, value in environment.items()]
        with open(self._script, "wb", closefd=False) as script:
            script.write(os.fsencode("\n".join([*words, f"exec {shlex.join(argv)}\n"])))
        os.write(self._go, b"\n")

    async def end(self) -> None:
        """Nothing of it is left then. To be called once, shielded."""
        if self.child.exit_status is None:
            await self.child.stop()
        self.group.look()
        await clear_group(self.group)


@asynccontextmanager
async def standing_by(
    machine: str, limits: Limits, *, stdin: int, stdout: int, stderr: int, tty: bool
) -> AsyncIterator[Standby]:
    """For one run of a container whose machine has that name and those limits. The descriptors remain the caller's.

    Raises `HostUnfit`.
    """
    require_root()
    check_installed("systemd-nspawn")
    group = ContainerGroup(machine)
    with ExitStack() as stack:
        try:
            group.make(limits)
            streams = ContainerStreams(stack, stdin, stdout, stderr, tty)
            ready, go = os.pipe2(os.O_CLOEXEC)
            script = os.memfd_create("command")
            for descriptor in (ready, go, script):
                stack.callback(os.close, descriptor)
            async with open_child(
                ["/bin/sh", "-c", _WAIT, "sh", *map(str, (os.getpid(), ready, script)), *group.entrances],
                stdin=streams.child_stdin,
                stdout=streams.child_stdout,
                stderr=streams.child_stderr,
                env=nspawn_environment(os.environ.get("TERM") if tty else None),
                death_signal=signal.SIGTERM,  # killed, nspawn would leave its container running
            ) as child:
                yield Standby(group, streams, child, script, go)
        finally:
            with trio.CancelScope(shield=True):
                await clear_group(group)
