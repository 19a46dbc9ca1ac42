"""What virtual machines can get wrong."""

from __future__ import annotations

from hyperlog.errors import Conflict, Refused, Unavailable


class NoHypervisor(Refused):
    """This host has no program that runs the machine; the hint says what to install."""


class MachineFailed(Unavailable):
    """The machine did not come up, or ended by itself; the message says what is known of why."""


class MachineHangs(Unavailable):
    """The machine runs and does not answer."""


class MachineBusy(Conflict):
    """Another process runs a machine in that directory."""


class CommandFailed(Unavailable):
    """The hypervisor refused a command of its control socket."""
