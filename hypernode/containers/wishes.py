"""What is asked of a container: checked before it is kept, and turned into what runs it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from hyperlog.errors import Refused
from hypernode.api.container_requests import CreateContainer, UpdateContainer
from hypernode.api.requests import Boot
from hypernode.containers.health import check_wishes
from hypernode.containers.keeper import parse_signal
from hypernode.containers.model import SHORT_ID, ContainerSpec
from hypernode.containers.names import check_name, new_id
from hypernode.containers.policy import parse_policy
from hypernode.containers.ports import parse_port
from hypernode.limits import CONTAINER_LOG_BYTES_MAX, CONTAINER_LOG_BYTES_MIN, CONTAINER_LOG_FILES_MAX
from vmhost.guest.recipe import PROFILES
from vmhost.idmap import UserRange
from vmhost.machines.limits import MEMORY_MIB_MIN
from vmhost.machines.spec import HYPERVISORS
from vmhost.nspawn import Bind, Limits, NspawnSpec

_VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*=[^\x00-\x08\x0b-\x1f\x7f\ud800-\udfff]*")
"""As nspawn takes them: UTF-8 without control characters but tab and newline."""
_DIRECTORY: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_HOST_NAME: Final = re.compile(r"[a-zA-Z0-9]([a-zA-Z0-9-]{0,62}[a-zA-Z0-9])?")
NETWORKS: Final = {"host": ("none", "user", "host"), "vm": ("none", "user")}
"""By isolation."""
SYSTEM_INIT: Final = "/sbin/init"
"""The name of a whole system's program, under which its starts are traced: whatever its init is."""
DRIVES: Final = ("auto", "fuse", "nbd")
_MEMORY_MIN: Final = 4 << 20
_MEMORY_MAX: Final = 1 << 52
"""What 64-bit processors can address at most."""
_SECONDS_MAX: Final = 86400.0


def check(asked: CreateContainer) -> None:
    """Raises `Refused` for what cannot be, in words for who asked."""
    if asked.name is not None:
        check_name(asked.name)
    policy = parse_policy(asked.restart)
    if asked.auto_remove and policy.name != "no":
        raise Refused("a container that is removed when it ends cannot be started again", "choose --rm or --restart")
    for text in asked.env:
        if not _VARIABLE.fullmatch(text):
            name, equals, _ = text.partition("=")
            if _VARIABLE.fullmatch(f"{name}{equals}"):
                raise Refused(f"the value of {name} cannot be passed to a container", "UTF-8, no control characters")
            raise Refused(f"{name!r} is no environment variable", "write NAME=VALUE")
    for text in asked.labels:
        if not text.partition("=")[0] or len(text) > 4096:
            raise Refused(f"{text[:64]!r} is no label", "write NAME=VALUE")
    for text in asked.binds:
        parse_bind(text)
    _check_isolation(asked)
    if asked.system and (asked.entrypoint, asked.user, asked.workdir) != (None, None, None):
        raise Refused("a whole system is started by its own init, as root", "leave out --entrypoint, --user, --workdir")
    if (asked.ports or asked.publish_all) and asked.network == "host":
        raise Refused("with this host's network there is nothing to publish", "leave --port out")
    for text in asked.ports:
        parse_port(text)
    if asked.hostname is not None and not _HOST_NAME.fullmatch(asked.hostname):
        raise Refused(f"{asked.hostname!r} is no host name", "letters, digits and dashes")
    if asked.workdir is not None and not asked.workdir.startswith("/"):
        raise Refused(f"the working directory {asked.workdir!r} is not absolute")
    if asked.cpus is not None and not 0.01 <= asked.cpus <= 4096:
        raise Refused(f"{asked.cpus:g} processors make no sense", "0.01 or more: 1.5 is one and a half")
    if asked.memory is not None and asked.memory < _MEMORY_MIN:
        raise Refused(f"{asked.memory} bytes of memory are too few", f"allow at least {_MEMORY_MIN} bytes")
    if asked.memory is not None and asked.memory > _MEMORY_MAX:
        raise Refused(f"no machine has {asked.memory} bytes of memory", "512M, 4G, …")
    if asked.processes is not None and asked.processes < 1:
        raise Refused("a container has at least one process")
    if asked.stop_signal is not None:
        parse_signal(asked.stop_signal)
    check_wishes(asked)
    if not CONTAINER_LOG_BYTES_MIN <= asked.log_max_size <= CONTAINER_LOG_BYTES_MAX:
        raise Refused(f"a log file of {asked.log_max_size} bytes makes no sense", "--log-max-size 128k to 1T")
    if not 1 <= asked.log_max_files <= CONTAINER_LOG_FILES_MAX:
        raise Refused(
            f"{asked.log_max_files} files of a log make no sense", f"--log-max-files 1 to {CONTAINER_LOG_FILES_MAX}"
        )
    check_stop_seconds(asked.stop_seconds)


def check_stop_seconds(seconds: float) -> None:
    """Refuse what is no time to wait for an end, such as the -1 of other tools, with which they wait for ever."""
    if not 0 <= seconds <= _SECONDS_MAX:
        raise Refused(f"waiting {seconds:g} s makes no sense", "choose 0 to 86400")


def _check_isolation(asked: CreateContainer) -> None:
    networks = NETWORKS.get(asked.isolation)
    if networks is None:
        raise Refused(f"there is no isolation {asked.isolation!r}", f"choose among {', '.join(NETWORKS)}")
    if asked.network not in networks:
        raise Refused(
            f"there is no network {asked.network!r} with --isolation {asked.isolation}",
            f"choose among {', '.join(networks)}",
        )
    if asked.drives not in DRIVES:
        raise Refused(f"there are no drives {asked.drives!r}", f"choose among {', '.join(DRIVES)}")
    if asked.isolation == "host":
        if asked.drives != "auto":
            raise Refused("only virtual machines have drives", "with --isolation vm")
        if asked.gpus:
            raise Refused("a device is passed to virtual machines only", "with --isolation vm")
        if (asked.guest, asked.hypervisor) != ("fast", "auto"):
            raise Refused("a guest and a hypervisor are those of virtual machines", "with --isolation vm")
        return
    if asked.guest not in PROFILES:
        raise Refused(f"there is no guest {asked.guest!r}", f"choose among {', '.join(PROFILES)}")
    if asked.hypervisor not in HYPERVISORS:
        raise Refused(f"there is no hypervisor {asked.hypervisor!r}", f"choose among {', '.join(HYPERVISORS)}")
    if asked.memory is not None and asked.memory >> 20 < MEMORY_MIB_MIN:
        raise Refused("so little memory is not enough for a virtual machine", f"{MEMORY_MIB_MIN}M or more")
    if asked.processes is not None:
        raise Refused("a virtual machine has no limit of processes", "--pids-limit goes with --isolation host")


def updated(request: UpdateContainer, asked: CreateContainer) -> CreateContainer:
    """With what `request` changes of it. Raises `Refused`. Pure."""
    named = {name: getattr(request, name) for name in ("cpus", "memory", "processes", "restart")}
    changes = {name: value for name, value in named.items() if value is not None}
    if not changes:
        raise Refused("nothing is to be changed", "name a limit, or a restart policy")
    changed = replace(asked, **changes)
    check(changed)
    return changed


def unkept(link: str, *, system: bool) -> ContainerSpec:
    """Of a container that nobody is to find: it is run and gone."""
    return ContainerSpec(new_id(), "", "", CreateContainer(link, system=system), foreground=True)


def boot_request(spec: ContainerSpec) -> Boot:
    """What the node is asked for it."""
    asked = spec.asked
    return Boot(
        link=asked.link,
        peers=asked.peers,
        read_deadline=asked.read_deadline,
        refresh=asked.refresh,
        command=asked.command,
        entrypoint=SYSTEM_INIT if asked.system else asked.entrypoint,
        prefetch=asked.prefetch,
        prefetch_rate=asked.prefetch_rate,
        learn=asked.learn,
        complete=asked.complete,
        keep=spec.volume,
        isolation=asked.isolation,
        drives=asked.drives,
        own_users=asked.network != "host",
    )


def make_spec(spec: ContainerSpec, ready: Mapping[str, Any], directories: Path) -> NspawnSpec:
    """How it is run on what the node made `ready`. `directories`: where named ones lie, made here if need be."""
    asked = spec.asked
    settings = ready["config"]
    hostname = asked.hostname or spec.id[:SHORT_ID]
    usable = [variable for variable in settings["env"] if _VARIABLE.fullmatch(variable)]
    environment = dict(variable.partition("=")[::2] for variable in (f"HOSTNAME={hostname}", *usable, *asked.env))
    return NspawnSpec(
        root=ready["root"],
        argv=tuple(ready["argv"]),
        is_system=asked.system,
        machine=spec.machine,
        hostname=hostname,
        env=environment,
        workdir="/" if asked.system else asked.workdir or settings["workdir"] or "/",
        user="root" if asked.system else settings["user"] or "root" if asked.user is None else asked.user,
        users=None if ready["users"] is None else UserRange(*ready["users"]),
        host_network=asked.network == "host",
        user_network=asked.network == "user",
        binds=tuple(_place(parse_bind(text), directories) for text in asked.binds),
        read_only=asked.read_only,
        limits=wanted_limits(asked),
    )


def left_out(ready: Mapping[str, Any]) -> list[str]:
    """Names of the image's environment variables that a container cannot be given: nspawn takes plain names only."""
    return [text.partition("=")[0] for text in ready["config"]["env"] if not _VARIABLE.fullmatch(text)]


def wanted_limits(asked: CreateContainer) -> Limits:
    """What it may use."""
    return Limits(cpus=asked.cpus, memory_bytes=asked.memory, processes=asked.processes)


def parse_bind(text: str) -> Bind:
    """`SOURCE:TARGET[:ro|:rw]`; the source may still be a name. Raises `Refused`."""
    words = text.split(":")
    mode = words.pop() if len(words) == 3 else "rw"
    if len(words) != 2 or mode not in ("ro", "rw") or "\0" in text:
        raise Refused(f"{text!r} says not what is to be seen where", "write /host/path:/inside, NAME:/inside, with :ro")
    source, target = words
    if not target.startswith("/") or target == "/" or ".." in target.split("/"):
        raise Refused(f"{text!r}: {target!r} is no place in a container", "an absolute path that is not /")
    if [part for part in target.split("/") if part not in ("", ".")][:1] == ["proc"]:
        raise Refused(f"{text!r}: /proc shows what the kernel says, and nothing else", "choose another place inside")
    if not source.startswith("/") and not _DIRECTORY.fullmatch(source):
        raise Refused(f"{text!r}: {source!r} is neither an absolute path nor a name")
    return Bind(source, target, read_only=mode == "ro")


def _place(bind: Bind, directories: Path) -> Bind:
    """With its source as a path that is there. Raises `Refused`."""
    if not bind.source.startswith("/"):
        path = directories / bind.source
        path.mkdir(mode=0o755, parents=True, exist_ok=True)
        return replace(bind, source=str(path))
    if not Path(bind.source).exists():
        raise Refused(f"there is no {bind.source} on this host to bind", "make it first")
    return bind
