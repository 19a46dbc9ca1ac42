"""What is kept of the containers of one home.

    containers/ID/spec.json     what was asked for; replaced as a whole, durably
    containers/ID/state.json    how it fares; replaced as a whole
    containers/ID/log*          what it printed (logs.py)
    containers/ID/keeper.log    what its keeper had to say
    containers/ID/control.sock  answers while it is kept
    containers/ID/lock          flock: held by the keeper as long as it lives, so nobody mistakes a dead one for alive

Calls block briefly.
"""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Final

from hyperlog.errors import Conflict, Corrupt, NotFound, Refused, Unavailable
from hyperlog.keys import sync_directory
from hypernode.api.container_requests import CreateContainer
from hypernode.containers.model import (
    DEAD,
    SHORT_ID,
    ContainerSpec,
    ContainerState,
    now_text,
    read_spec,
    read_state,
    spec_json,
    state_json,
)
from hypernode.containers.names import check_name, new_id, random_name
from hypernode.limits import CONTAINERS_MAX
from images.removal import remove_tree

_ID_CHARACTERS: Final = 64
_FILE_BYTES_MAX: Final = 4 << 20
_MAKING_SECONDS: Final = 60.0


class Container:
    """One container's directory."""

    def __init__(self, path: Path, spec: ContainerSpec) -> None:
        self.path = path
        self.spec = spec

    @property
    def control(self) -> Path:
        return self.path / "control.sock"

    @property
    def log(self) -> Path:
        return self.path / "log"

    def read_name(self) -> str:
        """What it is called now: that may change while it runs."""
        try:
            return read_spec(_read(self.path / "spec.json")).name
        except (FileNotFoundError, Corrupt):
            return self.spec.name

    def read_state(self) -> ContainerState:
        """As it was written last; `dead` when that cannot be read."""
        try:
            return read_state(_read(self.path / "state.json"))
        except FileNotFoundError:
            return ContainerState()
        except Corrupt as error:
            return ContainerState(status=DEAD, error=error.message)

    def write_state(self, state: ContainerState) -> None:
        """Whole or not at all. Raises `Unavailable` on a full disk."""
        new = self.path / "state.json.new"
        try:
            new.write_bytes(state_json(state))
            new.replace(self.path / "state.json")
        except OSError as error:
            raise Unavailable(f"the container's state cannot be written: {error.strerror}") from None

    @contextmanager
    def try_lock(self) -> Iterator[bool]:
        """Whether it is ours for the block: nobody keeps it."""
        try:
            descriptor = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except FileNotFoundError:
            yield False  # removed at this moment
            return
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
            else:
                yield True
        finally:
            os.close(descriptor)

    def is_kept(self) -> bool:
        """Whether a keeper lives."""
        with self.try_lock() as is_free:
            return not is_free and self.path.exists()

    def remove(self) -> None:
        """All of it, spec first: a crash leaves what the next look clears away."""
        with suppress(FileNotFoundError):
            (self.path / "spec.json").unlink()
        remove_tree(self.path)


class ContainerStore:
    """The containers of a home, in its directory `containers`."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def list(self) -> list[Container]:
        """Every container, oldest first. What a crash left half made or half removed is cleared away."""
        found = []
        try:
            paths = sorted(path for path in self._directory.iterdir() if path.is_dir())
        except FileNotFoundError:
            return []
        for path in paths:
            container = self._open(path)
            if container is not None:
                found.append(container)
        return sorted(found, key=lambda container: container.spec.created)

    def get(self, text: str) -> Container:
        """By name, id, or the beginning of an id. Raises `NotFound`, `Conflict` when several begin so."""
        containers = self.list()
        for container in containers:
            if text in (container.spec.id, container.spec.name):
                return container
        found = [container for container in containers if text and container.spec.id.startswith(text)]
        if len(found) > 1:
            raise Conflict(f"{len(found)} containers have an id that begins with {text!r}", "give more of it")
        if not found:
            raise NotFound(f"there is no container {text!r}", "`hypernode ps --all` lists them")
        return found[0]

    def create(self, asked: CreateContainer, *, foreground: bool = False) -> Container:
        """A new one, durable unless it goes with its command. Raises `Conflict` when the name is taken, `Refused`."""
        home = self._directory.parent
        try:
            home.mkdir(mode=0o700, parents=True, exist_ok=True)  # a first boot in a new home comes here first
            self._directory.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise Refused(
                f"{home} cannot be used as a home: {error.strerror}", "choose another one with --home"
            ) from error
        with self._naming() as names:
            if len(names) >= CONTAINERS_MAX:
                raise Refused(f"there are {len(names)} containers, the limit", "remove some: hypernode rm")
            if asked.name is not None:
                _check_free(asked.name, names)
            spec = ContainerSpec(new_id(), asked.name or random_name(set(names)), now_text(), asked, foreground)
            return self._create(replace(spec, asked=replace(asked, name=spec.name)))

    def rename(self, container: Container, name: str) -> None:
        """Durably. Raises `Conflict` when the name is taken, `Refused`."""
        with self._naming() as names:
            _check_free(name, names)
            spec = container.spec
            self._write_spec(container.path, replace(spec, name=name, asked=replace(spec.asked, name=name)))

    def update(self, container: Container, change: Callable[[CreateContainer], CreateContainer]) -> ContainerSpec:
        """What it is from now on, durably. Raises `Unavailable`, and what `change` raises."""
        with self._naming():
            spec = read_spec(_read(container.path / "spec.json"))
            spec = replace(spec, asked=change(spec.asked))
            self._write_spec(container.path, spec)
        return spec

    @contextmanager
    def _naming(self) -> Iterator[dict[str, Container]]:
        """Who has which name; nobody else gets one meanwhile."""
        try:
            descriptor = os.open(self._directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise _unwritable(error) from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield {container.spec.name: container for container in self.list()}
        finally:
            os.close(descriptor)

    def _create(self, spec: ContainerSpec) -> Container:
        path = self._directory / spec.id
        try:
            path.mkdir(mode=0o700)
        except OSError as error:
            raise _unwritable(error) from None
        try:
            self._write_spec(path, spec)
        except Unavailable:
            remove_tree(path)
            raise
        return Container(path, spec)

    @staticmethod
    def _write_spec(path: Path, spec: ContainerSpec) -> None:
        new = path / "spec.json.new"
        try:
            with new.open("wb") as file:
                file.write(spec_json(spec))
                if not spec.foreground:
                    file.flush()
                    os.fsync(file.fileno())
            new.replace(path / "spec.json")
            if not spec.foreground:
                sync_directory(path)
        except OSError as error:
            raise _unwritable(error) from None

    def _open(self, path: Path) -> Container | None:
        if len(path.name) != _ID_CHARACTERS:
            return None
        try:
            return Container(path, read_spec(_read(path / "spec.json")))
        except FileNotFoundError:
            self._clear(path)
            return None
        except Corrupt:
            asked = CreateContainer(link="")
            return Container(path, ContainerSpec(path.name, path.name[:SHORT_ID], "", asked, foreground=False))

    @staticmethod
    def _clear(path: Path) -> None:
        """What has no spec, unless it is just being made or removed."""
        with suppress(OSError):
            if time.time() - path.stat().st_mtime > _MAKING_SECONDS:
                remove_tree(path)


def _unwritable(error: OSError) -> Unavailable:
    hint = "choose another home with --home"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        hint = "is there room on the home's disk? `hypernode collect` makes some"
    return Unavailable(f"the container cannot be kept: {error.strerror}", hint)


def labels_of(container: Container) -> Mapping[str, str]:
    """The image's, and over them its own."""
    return {**container.read_state().image.get("labels", {}), **container.spec.labels}


def _check_free(name: str, names: Mapping[str, Container]) -> None:
    if check_name(name) in names:
        raise Conflict(
            f"the name {name} is taken by container {names[name].spec.id[:SHORT_ID]}",
            "remove it first, or choose another name",
        )


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(_FILE_BYTES_MAX)
