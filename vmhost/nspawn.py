"""What to run, and the systemd-nspawn command line that runs it. Pure; console.py starts it.

systemd-nspawn without user namespaces (`users`) is no security boundary: root inside can reach the host. With them it
is one as far as the host's kernel is.
"""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from hyperlog.errors import Refused
from vmhost.idmap import UserRange
from vmhost.mount_syscalls import MountPoint
from vmhost.users import User

DEFAULT_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_NAME: Final = re.compile(r"[a-zA-Z0-9]([a-zA-Z0-9-]{0,62}[a-zA-Z0-9])?")
_VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_STATE_DIRECTORY: Final = "/run/systemd/nspawn"
INITS: Final = ("/usr/lib/systemd/systemd", "/lib/systemd/systemd", "/sbin/init")
"""What nspawn runs as a system's process 1: the first of these that the image has."""
HALT_SIGNAL: Final = signal.SIGRTMIN + 3
"""Has systemd as process 1 stop all of its services and power off; TERM would have it begin anew."""
_ENDING: Final = frozenset({signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT})


@dataclass(frozen=True, slots=True)
class Bind:
    """A directory or file of the host, `source`, that the container sees as `target`; both absolute."""

    source: str
    target: str
    read_only: bool = False
    mapped: bool = False  # to be seen with the users of the container as its owners

    @property
    def option(self) -> str:
        """As nspawn takes it, whose separator is the colon."""
        source, target = (path.replace("\\", "\\\\").replace(":", "\\:") for path in (self.source, self.target))
        return f"--bind{'-ro' if self.read_only else ''}={source}:{target}:norbind{',idmap' if self.mapped else ''}"


@dataclass(frozen=True, slots=True)
class Limits:
    """What a container may use at most; None: as much as there is. `cpus` in processors' worth of time."""

    cpus: float | None = None
    memory_bytes: int | None = None
    processes: int | None = None


@dataclass(frozen=True, slots=True)
class NspawnSpec:
    """One container, as asked for."""

    root: str  # a writable merged tree on the host
    argv: tuple[str, ...]  # of a system: its init's, whose first word does not matter (INITS)
    machine: str  # unique on this host while it runs; letters, digits and dashes
    hostname: str
    env: Mapping[str, str] = field(default_factory=dict)
    workdir: str = "/"
    user: str = "root"  # USER[:GROUP], names or numbers: see users.py
    users: UserRange | None = None  # those of the host that are its own; `root` is seen as theirs
    host_network: bool = False
    user_network: bool = False  # its own, with a way out (network.py); neither: its own loopback
    network_namespace: str | None = None  # where nspawn is started: a path
    binds: tuple[Bind, ...] = ()
    read_only: bool = False  # the root; /run, /tmp's own mounts, binds and /dev remain as they are
    limits: Limits = Limits()
    is_system: bool = False  # boots the image's own init as process 1, as root in /

    def __post_init__(self) -> None:
        if not self.argv or not self.argv[0]:
            raise Refused("the image names no command to run", hint="give one after `--`")
        for value in (self.machine, self.hostname):
            if not _NAME.fullmatch(value):
                raise Refused(f"not a host name: {value!r}")
        if not self.root.startswith("/") or not self.workdir.startswith("/"):
            raise Refused("paths of a container must be absolute")
        for name in self.env:
            if not _VARIABLE.fullmatch(name):
                raise Refused(f"not a name of an environment variable: {name!r}")
        if any("\0" in text for text in (self.root, self.workdir, self.user, *self.argv, *self.env.values())):
            raise Refused("NUL cannot be passed to a program")

    def signal_for(self, number: int) -> int:
        """What the program is sent when this process gets signal `number`."""
        return HALT_SIGNAL if self.is_system and number in _ENDING else number

    @property
    def search_path(self) -> tuple[str, ...]:
        """Where programs are looked for, in order."""
        return tuple(part for part in self.env.get("PATH", DEFAULT_PATH).split(":") if part)


def nspawn_argv(spec: NspawnSpec, *, interactive: bool, bundle: str | None) -> list[str]:
    """The command line. `interactive`: nspawn's stdin and stdout are a terminal; else stdio goes through as it is.

    `bundle`: a directory whose config.json has `bundle_config`. Without one the user is root, and variables stand in
    the command line, which is for guests: everybody on this host could read them, and variables hold secrets.
    """
    # A system has a console in any case: without one nobody would see what its services print there.
    console = "interactive" if interactive else "read-only" if spec.is_system else "pipe"
    argv = [
        *([] if spec.network_namespace is None else ["nsenter", f"--net={spec.network_namespace}", "--"]),
        "systemd-nspawn",
        "--quiet",
        # --settings=no: no .nspawn file beside the image may configure its container; it would switch off the
        # bundle as well, with which none is read anyway.
        *([f"--directory={spec.root}", "--settings=no"] if bundle is None else [f"--oci-bundle={bundle}"]),
        f"--machine={spec.machine}",
        f"--hostname={spec.hostname}",
        "--register=no",  # no machined, and none of its D-Bus round trips
        "--keep-unit",  # nor a scope of its own: neither works without systemd as PID 1
        # As PID 2 the program has a stub init beside it: signals act on it, and orphans are reaped.
        "--boot" if spec.is_system else "--as-pid2",
        "--link-journal=no",
        "--resolv-conf=off",
        "--timezone=off",
        f"--console={console}",
        *([] if spec.is_system else [f"--chdir={spec.workdir}"]),
    ]
    if spec.users is not None:
        argv += [f"--private-users={spec.users.option}", "--private-users-ownership=off"]
    if not spec.host_network and spec.network_namespace is None:
        argv.append("--private-network")
    if spec.read_only:
        argv.append("--read-only")
    if bundle is None:
        argv += [f"--setenv={name}={value}" for name, value in spec.env.items()]
    argv += [bind.option for bind in spec.binds]
    return [*argv, "--", *(spec.argv[1:] if spec.is_system else spec.argv)]


def bundle_config(spec: NspawnSpec, user: User, open_files: tuple[int, int]) -> str:
    """An OCI runtime configuration that says no more than root, variables and user: nspawn's way to take a number.

    Its other way, --user, runs the image's getent, which small images lack. `open_files`: what a process may have open,
    soft and hard; with a bundle nspawn does not pass on its own.
    """
    soft, hard = open_files
    process = {
        "terminal": False,
        "user": {"uid": user.uid, "gid": user.gid, "additionalGids": list(user.groups)},
        "args": ["unused"],
        "cwd": spec.workdir,
        "env": [f"{name}={value}" for name, value in spec.env.items()],
        "rlimits": [{"type": "RLIMIT_NOFILE", "soft": soft, "hard": hard}],
    }
    return json.dumps({"ociVersion": "1.0.0", "root": {"path": spec.root}, "process": process})


def with_identity(spec: NspawnSpec, user: User) -> NspawnSpec:
    """The spec with HOME, USER and LOGNAME of `user`, where it does not set them itself (nspawn does it for root)."""
    named = {"USER": user.name, "LOGNAME": user.name, "HOME": user.home or "/"}
    return replace(spec, env={name: value for name, value in named.items() if value} | dict(spec.env))


def nspawn_environment(terminal_type: str | None) -> dict[str, str]:
    """What nspawn itself gets besides NOTIFY_SOCKET; the program inside gets only the spec's and nspawn's own few."""
    environment = {
        "PATH": DEFAULT_PATH,
        "SYSTEMD_LOG_LEVEL": "warning",
        "SYSTEMD_LOG_TARGET": "console",
        "SYSTEMD_NSPAWN_TMPFS_TMP": "0",  # what an image has in /tmp is part of it
        "SYSTEMD_TINT_BACKGROUND": "0",
    }
    if terminal_type:
        environment["TERM"] = terminal_type
    return environment


def propagation_directory(machine: str) -> str:
    """Where nspawn makes a directory for the machine, which it removes at its end."""
    return f"{_STATE_DIRECTORY}/propagate/{machine}"


def needs_tmpfs(directory: str, mounts: Sequence[MountPoint]) -> bool:
    """Whether `directory` lies on a real disk, where nspawn refuses to remove its own directory and says so on stderr.

    So it does on hosts whose PID 1 is not systemd, and whose /run therefore is no tmpfs.
    """
    covering = [point for point in mounts if (directory + "/").startswith(point.path.rstrip("/") + "/")]
    return not covering or max(covering, key=lambda point: len(point.path)).filesystem not in ("tmpfs", "ramfs")
