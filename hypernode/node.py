"""The node: store, swarm and mounts joined, and the one owner of their tasks.

Tasks live in nested nurseries, so that leaving them is the order of shutdown:

    ground    the swarm                                                   leaves last
    └ mounts  FUSE server, image mounts, views that a daemon keeps
      └ work  requests of the API (hosting.py, cli/daemon.py)             leaves first

A daemon starts the network at once; any other node when somebody first waits for it: libp2p takes a second or more to
import, and a container whose blocks are all here needs none of it.
"""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

import trio

from hyperlog.errors import HyperError, NotFound, Unavailable
from hyperlog.ids import LogKey
from hyperlog.keys import read_secret, write_secret
from hyperlog.limits import KEY_BYTES
from hyperlog.link import Link
from hyperlog.repository import Repository
from hypernode.ahead import Completions
from hypernode.claims import Inherited
from hypernode.config import Config
from hypernode.events import EventLog
from hypernode.gate import Gate
from hypernode.image_mounts import ImageMounts
from hypernode.leftovers import clear_leftovers, clear_view
from hypernode.limits import IDLE_MOUNT_SECONDS, NETWORK_START_SECONDS, PATIENCE_SECONDS
from hypernode.opened import OpenedImages
from hypernode.private_traces import PrivateTraces
from hypernode.records import Records
from hypernode.seeds import SeedBook, allowance
from hypernode.tables import finder
from hypernode.tokens import TokenBook
from hypernode.unpacked import UnpackedImages
from hypernode.views import View
from hypernode.volumes import VolumeStore
from images.manifest_store import ManifestRef
from images.reader import RawBlocks
from swarm.addresses import PeerId
from swarm.swarm import Swarm, SwarmConfig

if TYPE_CHECKING:
    from hypernode.adopting import Ward
    from hypernode.seeding import Seeding

_SEED_BYTES: Final = 32


class Node:
    """One home at work. Made by `open_node`."""

    def __init__(
        self,
        config: Config,
        repository: Repository,
        swarm: Swarm,
        events: EventLog,
        *,
        is_daemon: bool,
        mounts: trio.Nursery,
    ) -> None:
        self.config = config
        self.events = events
        self.repository = repository
        self.swarm = swarm
        self.is_daemon = is_daemon
        self.records = Records(repository.records)
        self.unpacked = UnpackedImages(config.unpacked)
        self.mounts = ImageMounts(config, self.unpacked, mounts, idle_seconds=IDLE_MOUNT_SECONDS if is_daemon else 0.0)
        self.opened = OpenedImages()
        self.raw_blocks = RawBlocks()
        self.completions = Completions()
        self.mounts_nursery = mounts
        self.views: dict[str, View] = {}
        """What people mounted, by directory."""
        self.boot_seconds: Counter[str] = Counter()
        """How long each stage of all boots took in all."""
        self.sites: dict[str, str] = {}
        """What is served over HTTP: name → URL."""
        self.inherited: Inherited | None = None
        """What a killed node left in use, for `adopting.adopt`."""
        self.wards: dict[str, Ward] = {}
        """Containers taken over from it, by their root."""
        self.volumes = VolumeStore(config.volumes)
        self.gate = Gate()
        self.seeds = SeedBook(repository.records, changed=self._limit_giving)
        for key in {seed.key for seed in self.seeds.all()}:
            self._limit_giving(key)
        self.tokens = TokenBook(repository.records)
        self.traces = PrivateTraces(repository.records)
        self.seeding: Seeding | None = None
        """What a daemon fetches for its seeds; None for a node that stays for one command."""
        self._held: Counter[ManifestRef] = Counter()

    def _limit_giving(self, key: LogKey) -> None:
        """Serve the log as long as some order about it is not done; an image of this home's own for ever."""
        orders = self.seeds.of(key, None)
        try:
            is_own = self.repository.logs.open(key).writable
        except NotFound:
            is_own = False
        self.swarm.limit_giving(key, None if is_own else allowance(orders, self.config.ratio))

    @contextlib.contextmanager
    def holding(self, reference: ManifestRef) -> Iterator[None]:
        """What the manifest reaches is in use: it is not collected."""
        self._held[reference] += 1
        try:
            yield
        finally:
            self._held[reference] -= 1
            if not self._held[reference]:
                del self._held[reference]

    def held(self) -> list[ManifestRef]:
        """The manifests in use at this moment."""
        return list(self._held)

    def join(self, key: LogKey, peers: Sequence[str] = ()) -> None:
        """Serve the log and look for its peers, `peers` first. Raises `BadAddress`."""
        self.swarm.join(key, peers)

    async def wait_addresses(self) -> tuple[str, ...]:
        """Where this node can be dialled, the network being started if need be. Raises `Unavailable`."""
        with trio.move_on_after(NETWORK_START_SECONDS):
            return await self.swarm.wait_listening()
        raise Unavailable(f"the network did not start within {NETWORK_START_SECONDS:g} s")


@contextlib.asynccontextmanager
async def open_node(config: Config, repository: Repository, *, is_daemon: bool) -> AsyncIterator[Node]:
    """Run a node on `repository`, which is closed at the end. What a crashed one left mounted is cleared first."""
    with repository, EventLog(config.events) as events:
        inherited = await trio.to_thread.run_sync(_clear_crash, config, Records(repository.records))
        settings = SwarmConfig(
            identity_seed=_identity_seed(config),
            listen=config.listen,
            mdns=config.mdns,
            finding=replace(config.finding, answers=is_daemon),
            swarm_key=None if config.swarm_key is None else _swarm_key(config.swarm_key),
            lan_only=config.lan_only,
            # Only who stays asks the router for a port.
            reach=config.reach if is_daemon else replace(config.reach, map_ports=False),
            upload_limit=config.upload_limit,
            download_limit=config.download_limit,
            leech_only=config.leech_only,
            upload_only=config.upload_only,
            on_demand=not is_daemon,
            give_up_seconds=max(PATIENCE_SECONDS, config.read_deadline),
        )
        swarm = Swarm(
            repository.logs,
            repository.blocks,
            settings,
            ban_book=Records(repository.records),
            memory=Records(repository.records),
            given_book=Records(repository.records),
            find_table=finder(repository),
            on_peer=partial(_tell_of_peer, events),
        )
        async with trio.open_nursery() as ground:
            await ground.start(swarm.run)
            async with trio.open_nursery() as mounts:
                node = Node(config, repository, swarm, events, is_daemon=is_daemon, mounts=mounts)
                node.inherited = inherited
                for log in repository.logs.list():
                    if log.length:  # else somebody once asked for a key that nobody had
                        node.join(log.key)
                if is_daemon:
                    events.emit("node", "start", str(config.home))
                yield node
                if is_daemon:
                    events.emit("node", "stop", str(config.home))
                await node.mounts.release_idle()
                mounts.cancel_scope.cancel()
            ground.cancel_scope.cancel()


def _tell_of_peer(events: EventLog, action: str, peer: PeerId, log: LogKey | None, fault: str | None) -> None:
    events.emit("peer", action, peer, image=None if log is None else Link(log).text, fault=fault)


def _clear_crash(config: Config, records: Records) -> Inherited | None:
    inherited = clear_leftovers(config)
    VolumeStore(config.volumes).clear()
    for directory in records.mounts():
        clear_view(config, directory)
        records.forget_mount(directory)
    return inherited


def _swarm_key(path: Path) -> bytes:
    """The key of a private swarm. Raises `NotFound`, `Refused`, `Corrupt`."""
    try:
        return read_secret(path)
    except HyperError as error:
        kind = type(error)
        raise kind(
            f"the key of the private swarm cannot be used: {error.message}",
            error.hint or f"every node needs the same one: (umask 077; head -c {KEY_BYTES} /dev/urandom > {path})",
        ) from None


def _identity_seed(config: Config) -> bytes:
    """The secret behind this node's peer id, made at first use."""
    try:
        return read_secret(config.identity)
    except NotFound:
        config.identity.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        seed = os.urandom(_SEED_BYTES)
        write_secret(config.identity, seed)
        return seed
