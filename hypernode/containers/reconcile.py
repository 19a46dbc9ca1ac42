"""Bringing what is written of a container in line with what is real: its keeper may have been killed.

nspawn ends with its keeper and takes the container along; the node sees the keeper's connection end and unmounts. What
neither did is done here: processes that are left are ended, control groups removed, and the state says what happened.
Where no node runs, mounts are cleared away as the next node would.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

import trio

from hyperlog.errors import HyperError, StoreLocked
from hyperlog.repository import lock_directory
from hypernode.config import Config
from hypernode.containers.keeper import host_start
from hypernode.containers.model import EXITED, LIVING, ContainerState, now_text
from hypernode.containers.store import Container, ContainerStore
from hypernode.leftovers import clear_leftovers
from vmhost.cgroup import ContainerGroup, clear_group
from vmhost.mount_syscalls import in_mount_thread
from vmhost.stale import kill_containers_under

_KILLED = 137


def containers_of(config: Config) -> ContainerStore:
    return ContainerStore(config.containers)


async def reconcile(config: Config, containers: Iterable[Container], *, has_node: bool) -> list[Container]:
    """Put right what is wrong with `containers`; those that were. `has_node`: a node runs in the home."""
    found = []
    for container in containers:
        if not _may_run(container.read_state()):
            await _clear_group(container)
        elif await _put_right(container):
            found.append(container)
    if found and not has_node:
        with suppress(HyperError):
            await in_mount_thread(partial(_clear_mounts, config))
    return found


def _may_run(state: ContainerState) -> bool:
    """By what is written: it runs, or was just being started."""
    return state.status in LIVING or bool(state.root)


async def _clear_group(container: Container) -> None:
    """Its keeper may have been killed while its image was fetched: the group is made before that."""
    group = ContainerGroup(container.spec.machine)
    if group.entrances:
        with container.try_lock() as is_free:
            if is_free:
                await clear_group(group)


async def _put_right(container: Container) -> bool:
    with container.try_lock() as is_free:
        state = container.read_state()
        if not is_free or not _may_run(state):
            return False
        if state.root:
            await in_mount_thread(partial(kill_containers_under, str(Path(state.root).parent)))
        await clear_group(ContainerGroup(container.spec.machine))
        with suppress(FileNotFoundError):
            container.control.unlink()
        if container.spec.foreground:
            container.remove()
            return True
        if state.host_start != host_start():
            cause = "this host was started again"
        else:
            cause = "its keeper was killed, and the container with it"
        container.write_state(
            replace(
                state,
                status=EXITED,
                pid=0,
                keeper=0,
                exit_code=_KILLED,
                error=cause,
                finished_at=now_text(),  # when it was noticed
                root="",
                ports=(),
            )
        )
        return True


def _clear_mounts(config: Config) -> None:
    """As a node that starts. Nothing is done if one is just starting."""
    try:
        lock = lock_directory(config.home)
    except StoreLocked:
        return
    try:
        inherited = clear_leftovers(config)
        if inherited is not None:
            os.close(inherited.connection)
    finally:
        os.close(lock)


async def wait_free(container: Container, seconds: float) -> bool:
    """Whether nobody keeps it any more, within `seconds`."""
    with trio.move_on_after(seconds):
        while container.is_kept():  # noqa: ASYNC110  (a lock of another process: nobody tells)
            await trio.sleep(0.02)
        return True
    return False
