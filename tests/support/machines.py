"""A home whose containers run in virtual machines, always under emulation: what is true there is true under KVM."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tests.support.containers import Home, nothing_of_containers_left, share
from tests.support.guest import CACHE_HOME, built_guest
from tests.support.netns import Namespace
from tests.support.nodes import Node, daemon
from tests.vmhost.support import make_busybox_root
from vmhost.machines.platforms import remember_kvm

NEEDS: Final = ("root", "fuse", "erofs", "nspawn", "busybox", "qemu", "apt-get")
BOOT_SECONDS: Final = 400.0
"""Of one boot, on a machine that has other things to do."""


class MachineHome(Home):
    """With a small image of its own, which is therefore trusted."""

    def run_in_vm(self, *options: str, script: str, status: int = 0, stdin: str = "") -> str:
        """What a shell script prints in a machine that ends with it."""
        words = ("boot", "--isolation", "vm", *options, self.link, "--", "sh", "-c", script)
        done = self.node.run(*words, stdin=stdin, seconds=BOOT_SECONDS)
        assert done.returncode == status, (words, done.returncode, done.stdout, done.stderr)
        return done.stdout if status == 0 else done.stderr

    def boot_vm(self, *options: str, script: str) -> str:
        """A detached container in a machine; its id."""
        return self.run_patiently("boot", "-d", "--isolation", "vm", *options, self.link, "--", "sh", "-c", script)

    def run_patiently(self, *words: str, status: int = 0) -> str:
        """Run a command that boots or restores a machine; what it printed, or said if it was to fail."""
        done = self.node.run(*words, seconds=BOOT_SECONDS)
        assert done.returncode == status, (words, done.returncode, done.stdout, done.stderr)
        return (done.stdout if status == 0 else done.stderr).strip()


@contextmanager
def machine_home(directory: Path, host: Namespace | None = None) -> Iterator[MachineHome]:
    """With a daemon, and all containers removed in the end. `host`: the network namespace it lives in."""
    built_guest("fast", directory)
    node = Node(directory / "home", host, environment={"XDG_CACHE_HOME": str(CACHE_HOME)})
    remember_kvm(directory / "state" / "hypernode" / "kvm.json", "these tests do without")
    with daemon(node), nothing_of_containers_left(node.home):
        home = MachineHome(node, share(node, make_busybox_root(directory / "root")).link)
        try:
            yield home
        finally:
            for identity in home.do("ps", "-aq", "--no-trunc").split():
                home.do("rm", "-f", identity)
