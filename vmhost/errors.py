"""What mounts, containers and this host can get wrong; each a subclass of one of hyperlog's five kinds."""

from __future__ import annotations

from hyperlog.errors import Corrupt, NotFound, Refused, Unavailable


class HostUnfit(Refused):
    """This host lacks something that mounts or containers need; the hint says what to install or change."""


class MountFailed(Unavailable):
    """The kernel refused a mount, or something that is mounted does not go away."""


class MountLost(Unavailable):
    """The mount went away under us: somebody unmounted it, or aborted its connection."""


class ReadDeadline(Unavailable):
    """Nobody delivered the bytes of a read within the read deadline."""


class RootUnusable(Refused):
    """The image's root tree cannot be made into a container's root."""


class ProgramNotFound(NotFound):
    """The image has no such program; shells say 127."""


class ProgramNotExecutable(Refused):
    """The image has that file, but it cannot be run; shells say 126."""


class ContainerFailed(Unavailable):
    """systemd-nspawn gave up before the program ran; the message is its own last words."""


class OutputFailed(Unavailable):
    """What a program prints cannot be written where it should go: a full disk, say."""


class MachineGone(Unavailable):
    """The container has ended, or is just ending."""


class GuestMissing(NotFound):
    """No guest was built for that architecture and profile."""


class GuestDamaged(Corrupt):
    """A built guest's files are not what they were when it was built."""


class GuestSourceBad(Corrupt):
    """What a guest is made from is not what it should be: a package, a file in it, an overlay."""


class NoMirror(Unavailable):
    """No Debian mirror gave what a guest is made from."""


class AgentLost(Unavailable):
    """The agent in a guest does not answer any more: it, the guest or its hypervisor has gone, or hangs."""


class AgentMisbehaved(Corrupt):
    """A guest sent something that its agent never sends; the line to it is dropped."""


class AgentMismatch(Refused):
    """The agent in the guest speaks another version of the protocol."""
