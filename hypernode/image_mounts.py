"""One EROFS mount for each image in use, however many containers run on it.

The first user of an image mounts it and the last one unmounts it, a daemon a minute later; until then they share the
kernel's page cache, so a second container of the same image reads nothing again. A container gets a private writable
layer on top; a view for people is a mount of its own, because it has other flags (nosuid) and lies where they want it.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final

import trio

from hypernode.claims import Claim
from hypernode.config import Config
from hypernode.container_root import ContainerRoot, UserRanges, writable_root
from hypernode.deadline import DeadlineBlob
from hypernode.limits import (
    CLOSE_SECONDS,
    IDLE_MOUNTS_MAX,
    TRACED_READ_AHEAD_KIB,
)
from hypernode.machine_disks import MachineDisks, disks_by_nbd
from hypernode.recording import RecordingBlob
from hypernode.start_reads import StartReads
from hypernode.unpacked import UnpackedImages
from images.manifest import Manifest
from images.manifest_store import ManifestRef
from images.removal import remove_tree
from vmhost.blob_files import BlobFile
from vmhost.blob_server import BlobServer, BlobServerStats, ReadFailure
from vmhost.errors import HostUnfit, MountFailed, MountLost
from vmhost.host_probe import Purpose, findings, observe, require
from vmhost.image_mount import (
    CONTAINER_LOWER,
    READ_ONLY_VIEW,
    inherit_image,
    mount_image,
    standing,
)
from vmhost.mount_syscalls import in_mount_thread
from vmhost.read_ahead import ReadAhead
from vmhost.stale import clear_mounts_of
from vmhost.tree_view import mount_tree

_log: Final = logging.getLogger("hypernode.mounts")
_SERVER_DEADLINE_SECONDS: Final = 86400.0
"""Each image keeps its own deadline, which may differ from user to user; the server's is only a last guard."""

OnReadFailure = Callable[[ReadFailure], None]


@dataclass(frozen=True, slots=True)
class MountableImage:
    """All that a mount needs: a name (its manifest's), its data, and the file with its EROFS metadata."""

    name: str
    blob: BlobFile
    metadata: Path
    reference: ManifestRef
    manifest: Manifest
    read_ahead_kib: int | None = None
    """Of the kernel, in a view through EROFS; None: its own choice, 128 KiB as a rule."""


@dataclass(eq=False)
class _Shared:
    """One mounted image and its users. `ended` is set when it is unmounted."""

    blob: DeadlineBlob
    target: str
    users: int = 0
    idle: trio.CancelScope | None = None
    """While nobody uses it: cancelled when somebody does, or it is unmounted."""
    idle_since: float = 0.0
    leave: trio.CancelScope = field(default_factory=trio.CancelScope)
    ended: trio.Event = field(default_factory=trio.Event)
    reads: StartReads = field(init=False)

    def __post_init__(self) -> None:
        self.reads = StartReads(self.target, self.ended)


class ImageMounts:
    """The mounts of a node. `nursery` is the node's for mounts; the FUSE server starts with the first image.

    An image stays mounted for `idle_seconds` after its last container, with what the kernel cached of it.
    """

    def __init__(self, config: Config, unpacked: UnpackedImages, nursery: trio.Nursery, *, idle_seconds: float) -> None:
        self._config = config
        self._unpacked = unpacked
        self._nursery = nursery
        self._idle_seconds = idle_seconds
        self._server: BlobServer | None = None
        self._spare: BlobServer | None = None
        self._users = UserRanges()
        self._shared: dict[str, _Shared] = {}
        self._listeners: dict[str, list[OnReadFailure]] = {}
        self._changing = trio.Lock()

    async def prepare(self, *, to_mount: bool = False) -> None:
        """Start what will serve mounts, so that the first one need not wait for it; ends when it is cancelled.

        Nothing happens where there can be none, or when it has been started. `to_mount`: an image will be, soon.
        """
        try:
            require(Purpose.MACHINE)
        except HostUnfit:
            return
        async with self._changing:
            is_prepared = self._server is not None or self._spare is not None
            if not is_prepared:
                spare = self._make_server()
                await spare.warm()
                self._spare = spare
        if to_mount:
            self._nursery.start_soon(self._serve_early)
        if is_prepared:
            return
        try:
            await self._users.keep_one()
        finally:
            with trio.move_on_after(CLOSE_SECONDS, shield=True):
                await spare.cool()

    @contextlib.asynccontextmanager
    async def container_root(
        self,
        image: MountableImage,
        deadline: float,
        on_failure: OnReadFailure,
        *,
        volume: Path | None = None,
        traced: bool = False,
        pushes: bool = False,
        own_users: bool = True,
        recording: RecordingBlob | None = None,
    ) -> AsyncIterator[ContainerRoot]:
        """A writable root over `image`; what is written goes to `volume`, or is gone at the end.

        `traced`: what its start reads is on its way here, and little else should be asked for. `pushes`: nobody needs
        to know which of it is read, so it may be put where the kernel need not ask for it. `recording`: the
        image's blob to read from instead, through a mount of its own, whose page cache is empty.
        Raises `HostUnfit`, `MountFailed`.
        """
        require(Purpose.CONTAINER)
        place = self._config.run / "boot" / os.urandom(6).hex()
        place.mkdir(parents=True, mode=0o700)
        try:
            if recording is None:
                name, mounting = image.name, self._lower(image, deadline, traced=traced, pushes=pushes)
            else:
                name = f"{image.name}-{place.name}"
                mounting = self._recorded(image, name, DeadlineBlob(recording, deadline), str(place / "lower"))
            owning = self._users.of(image.manifest) if own_users else contextlib.nullcontext()
            with self._listening(name, on_failure), owning as users:
                async with mounting as lower, writable_root(lower, place, volume, users) as root:
                    yield root
        finally:
            with trio.move_on_after(CLOSE_SECONDS, shield=True):
                await in_mount_thread(partial(_remove_place, place))

    @contextlib.asynccontextmanager
    async def machine_disks(
        self, image: MountableImage, deadline: float, on_failure: OnReadFailure, drives: str = "auto"
    ) -> AsyncIterator[MachineDisks]:
        """`image` as what a virtual machine mounts itself. Raises `HostUnfit`, `MountFailed`.

        `drives`: the blob as a file of FUSE (`fuse`), both disks by NBD (`nbd`), or that where FUSE cannot be (`auto`).
        """
        if drives == "auto" and findings(observe(), Purpose.MACHINE):
            drives = "nbd"
        place = self._config.run / "boot" / os.urandom(6).hex()
        place.mkdir(parents=True, mode=0o700)
        blob = DeadlineBlob(image.blob, deadline)
        serving = disks_by_nbd if drives == "nbd" else partial(self._disks_in_fuse, image.name)
        try:
            async with serving(image.metadata, blob, place, on_failure) as disks:
                yield disks
        finally:
            with trio.move_on_after(CLOSE_SECONDS, shield=True):
                await in_mount_thread(partial(_remove_place, place))

    @contextlib.asynccontextmanager
    async def _disks_in_fuse(
        self, image_name: str, metadata: Path, blob: DeadlineBlob, place: Path, on_failure: OnReadFailure
    ) -> AsyncIterator[MachineDisks]:
        require(Purpose.MACHINE)
        async with self._changing:
            server = await self._serving()
        name = f"{image_name}-{place.name}"
        with self._listening(name, on_failure):
            path = server.add(name, blob)
            try:
                yield MachineDisks(place, metadata, path)
            finally:
                server.remove(name)

    @contextlib.asynccontextmanager
    async def view_at(
        self, image: MountableImage, target: str, deadline: float, on_failure: OnReadFailure, *, plain: bool
    ) -> AsyncIterator[None]:
        """`image`, read-only, at the directory `target`; `plain`: without EROFS. Raises `HostUnfit`, `MountFailed`."""
        if plain:
            require(Purpose.VIEW)
            async with mount_tree(
                image.manifest,
                DeadlineBlob(image.blob, deadline),
                target,
                on_read_failure=on_failure,
                read_deadline_seconds=_SERVER_DEADLINE_SECONDS,
            ):
                yield
            return
        require(Purpose.MOUNT)
        async with self._changing:
            server = await self._serving()
        name = f"{image.name}-{os.urandom(6).hex()}"
        blob = DeadlineBlob(image.blob, deadline)
        with self._listening(name, on_failure):
            async with mount_image(
                server,
                [(name, blob)],
                metadata_path=str(image.metadata),
                target=target,
                flags=READ_ONLY_VIEW,
                read_ahead=ReadAhead(image.read_ahead_kib),
            ):
                yield

    async def take_over(self, connection: int, images: Sequence[tuple[MountableImage, Claim]]) -> None:
        """Go on serving the mounts of a killed node: its FUSE connection, and the images that stand on it."""
        server = self._make_server()
        async with self._changing:
            for image, claim in images:
                shared = _Shared(DeadlineBlob(image.blob, claim.read_deadline), self._place_of(image))
                blobs = [(name, shared.blob, node) for name, node in claim.nodes.items()]  # none: it is a plain file
                await self._nursery.start(self._hold_shared, image, shared, inherit_image(server, blobs, shared.target))
            # Only now: a read of a blob that is not known yet would fail.
            await self._nursery.start(server.run, connection)
            self._server = server
        for image, _ in images:
            if (held := self._shared.get(image.name)) is not None:
                self._nursery.start_soon(held.reads.settle, server, image.name)

    @contextlib.asynccontextmanager
    async def inherited_root(
        self, image: MountableImage, place: Path, deadline: float, on_failure: OnReadFailure
    ) -> AsyncIterator[None]:
        """The writable root at `place` that a killed node made; undone at the end, as `container_root` does it."""
        try:
            with self._listening(image.name, on_failure):
                async with (
                    self._lower(image, deadline),
                    standing(str(place / "memory")),
                    standing(str(place / "seen" / "lower")),
                    standing(str(place / "seen" / "layer")),
                    standing(str(place / "root")),
                ):
                    yield
        finally:
            with trio.move_on_after(CLOSE_SECONDS, shield=True):
                await in_mount_thread(partial(_remove_place, place))

    def held_nodes(self, image: MountableImage) -> dict[str, int]:
        """The blobs of a mounted image by name, with their FUSE node ids; none of one that is a plain file."""
        assert self._server is not None
        node = self._server.node_of(image.name)
        return {} if node is None else {image.name: node}

    def statistics(self) -> BlobServerStats:
        """Of what was read through FUSE."""
        return BlobServerStats() if self._server is None else self._server.statistics()

    @property
    def connection(self) -> int:
        """The descriptor of the FUSE connection; an image is mounted."""
        assert self._server is not None
        return self._server.descriptor

    def _place_of(self, image: MountableImage) -> str:
        return str(self._config.run / "images" / image.name)

    @contextlib.asynccontextmanager
    async def _recorded(self, image: MountableImage, name: str, blob: DeadlineBlob, target: str) -> AsyncIterator[str]:
        async with self._changing:
            server = await self._serving()
        async with mount_image(
            server,
            [(name, blob)],
            metadata_path=str(image.metadata),
            target=target,
            flags=CONTAINER_LOWER,
            read_ahead=ReadAhead(TRACED_READ_AHEAD_KIB),
        ) as lower:
            yield lower

    @contextlib.asynccontextmanager
    async def _lower(
        self, image: MountableImage, deadline: float, *, traced: bool = False, pushes: bool = False
    ) -> AsyncIterator[str]:
        """The shared mount of `image`."""
        async with self._changing:
            shared = self._shared.get(image.name)
            if shared is None:
                shared = _Shared(DeadlineBlob(image.blob, deadline), self._place_of(image))
                # A plain file needs no server; but what outlives a killed node is found by its connection.
                server = await self._serving()
                plain = self._unpacked.find(image.reference.id, image.blob.size)
                mounting = mount_image(
                    server,
                    [] if plain is not None else [(image.name, shared.blob)],
                    files=[] if plain is None else [str(plain)],
                    metadata_path=str(image.metadata),
                    target=shared.target,
                    flags=CONTAINER_LOWER,
                    read_ahead=shared.reads.read_ahead,
                )
                await self._nursery.start(self._hold_shared, image, shared, mounting)
            shared.users += 1
            if shared.idle is not None:
                shared.idle.cancel()
                shared.idle = None
        try:
            shared.blob.seconds = deadline
            assert self._server is not None
            self._server.look_again(image.name)
            if traced:
                await shared.reads.begin(self._server, image.name, self._nursery, pushes=pushes)
            yield shared.target
        finally:
            with trio.move_on_after(CLOSE_SECONDS, shield=True):
                async with self._changing:
                    shared.users -= 1
                    if not shared.users:
                        await self._leave_idle(shared)

    async def _leave_idle(self, shared: _Shared) -> None:
        """Its last user has left; the caller holds `_changing`."""
        if not self._idle_seconds:
            await self._release([shared])
            return
        shared.idle, shared.idle_since = trio.CancelScope(), trio.current_time()
        self._nursery.start_soon(self._expire, shared, shared.idle)
        idle = sorted((each for each in self._shared.values() if not each.users), key=lambda each: each.idle_since)
        await self._release(idle[:-IDLE_MOUNTS_MAX])

    async def _expire(self, shared: _Shared, idle: trio.CancelScope) -> None:
        with idle:
            await trio.sleep(self._idle_seconds)
        async with self._changing:
            if shared.idle is idle:  # else it has a user again
                await self._release([shared])

    async def release_idle(self) -> None:
        """Unmount what no container uses now. Returns when it is gone."""
        async with self._changing:
            await self._release([shared for shared in self._shared.values() if not shared.users])

    async def _release(self, unused: Sequence[_Shared]) -> None:
        """Unmount them; the caller holds `_changing`."""
        for shared in unused:
            shared.leave.cancel()
        for shared in unused:
            await shared.ended.wait()
            if shared.idle is not None:
                shared.idle.cancel()
                shared.idle = None

    async def _hold_shared(
        self,
        image: MountableImage,
        shared: _Shared,
        mounting: contextlib.AbstractAsyncContextManager[str],
        *,
        task_status: trio.TaskStatus[None],
    ) -> None:
        is_up = False
        try:
            with shared.leave:
                async with mounting:
                    self._shared[image.name] = shared
                    is_up = True
                    task_status.started()
                    await trio.sleep_forever()
        except MountFailed as error:
            if not is_up:
                raise
            _log.error("%s", error.message)  # it did not go away; the next start of the node clears it
        finally:
            self._shared.pop(image.name, None)
            shared.ended.set()

    async def _serve_early(self) -> None:
        with contextlib.suppress(MountFailed, MountLost):  # whoever mounts an image will hear of it
            async with self._changing:
                await self._serving()

    async def _serving(self) -> BlobServer:
        """The FUSE server, started when first needed; the caller holds `_changing`."""
        if self._server is None:
            server, self._spare = self._spare or self._make_server(), None
            await self._nursery.start(server.run)
            self._server = server
        return self._server

    def _make_server(self) -> BlobServer:
        return BlobServer(
            str(self._config.run / "fuse"),
            on_read_failure=self._tell,
            read_deadline_seconds=_SERVER_DEADLINE_SECONDS,
        )

    @contextlib.contextmanager
    def _listening(self, name: str, on_failure: OnReadFailure) -> Iterator[None]:
        self._listeners.setdefault(name, []).append(on_failure)
        try:
            yield
        finally:
            self._listeners[name].remove(on_failure)
            if not self._listeners[name]:
                del self._listeners[name]

    def _tell(self, failure: ReadFailure) -> None:
        for listener in list(self._listeners.get(failure.name, ())):
            listener(failure)


def _remove_place(place: Path) -> None:
    """Remove a container's directory; what its killed command left mounted there goes first, lest it be emptied."""
    try:
        clear_mounts_of(str(place))
    except MountFailed as error:
        _log.error("%s", error.message)
        return
    remove_tree(place)
