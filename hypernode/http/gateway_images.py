"""Which image a URL means, opened: by its key, or by the name of one that is here.

Every read of an image asks which version is meant now, by what is here of its log; a log that is not here is looked for
among peers, for a bounded number of such logs. A few decoded manifests are kept.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from typing import Final

import trio

from hyperlog.errors import Conflict, NotFound, Refused
from hyperlog.ids import ID_CHARACTERS, EntryId, LogKey, from_text
from hyperlog.link import Link, parse_link
from hyperlog.log import Log
from hypernode.http.limits import GATEWAY_IMAGES_MAX, GATEWAY_OPENING_MAX, GATEWAY_STRANGERS_MAX
from hypernode.node import Node
from hypernode.opening import find_version
from hypernode.operations.fetching import Prepared, prepare_version
from images.catalog import Catalog, Resolved

_NOT_IN_NAMES: Final = re.compile(r"[^a-z0-9]+")


class GatewayImages:
    """The images of a node, as a gateway's URLs name them."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._opened: OrderedDict[tuple[LogKey, EntryId], Prepared] = OrderedDict()
        self._opening = trio.CapacityLimiter(GATEWAY_OPENING_MAX)
        self._strangers: set[LogKey] = set()
        self._names: dict[LogKey, tuple[int, frozenset[str]]] = {}

    def key_of(self, name: str) -> LogKey:
        """The log that `name`, a key or the name of an image here, means. Raises `NotFound`, `Conflict`."""
        if len(name) == ID_CHARACTERS:
            try:
                return LogKey(from_text(name))
            except Refused:
                pass
        found = [log.key for log in self._node.repository.logs.list() if name in self._names_of(log)]
        if not found:
            raise NotFound("no image of that name is here", "name it by its key, the 52 characters of its link")
        if len(found) > 1:
            raise Conflict("several images here have that name", "name it by its key, the 52 characters of its link")
        return found[0]

    async def resolve(self, name: str, version: str | None) -> tuple[Log, Resolved]:
        """The version that is meant; its log is looked for if it is not here. Raises as `find_version`."""
        key = self.key_of(name)
        link = Link(key) if version is None else parse_link(f"{Link(key).text}@{version}")
        self._admit(key)
        return await find_version(self._node, link, (), refresh=False, tell=_tell_nobody)

    async def open(self, log: Log, resolved: Resolved) -> Prepared:
        """The version with its manifest, which is fetched if need be."""
        found = self._held(log, resolved)
        if found is None:
            async with self._opening:
                found = self._held(log, resolved)  # of two who wait, the second takes what the first has opened
                if found is None:
                    async with self._node.gate.passing():
                        link = Link(log.key, f"v{resolved.number}")
                        found = await prepare_version(self._node, link, log, resolved)
        self._opened[log.key, resolved.entry] = found
        self._opened.move_to_end((log.key, resolved.entry))
        while len(self._opened) > GATEWAY_IMAGES_MAX:
            self._opened.popitem(last=False)
        return found

    def _held(self, log: Log, resolved: Resolved) -> Prepared | None:
        """It, unless its manifest was collected meanwhile: what is in use has to be here."""
        blocks = self._node.repository.blocks
        is_here = all(blocks.has(block.id) for block in resolved.version.manifest.blocks)
        return self._opened.get((log.key, resolved.entry)) if is_here else None

    def _admit(self, key: LogKey) -> None:
        """Raises `Refused` when too many logs that are not here were asked for."""
        if self._is_here(key) or key in self._strangers:
            return
        if len(self._strangers) >= GATEWAY_STRANGERS_MAX:
            self._strangers = {each for each in self._strangers if not self._is_here(each)}
        if len(self._strangers) >= GATEWAY_STRANGERS_MAX:
            raise Refused(
                "this gateway was asked for too many images that are not here", "`hypernode seed add LINK` first"
            )
        self._strangers.add(key)

    def _is_here(self, key: LogKey) -> bool:
        try:
            return self._node.repository.logs.open(key).length > 0
        except NotFound:
            return False

    def _names_of(self, log: Log) -> frozenset[str]:
        known = self._names.get(log.key)
        if known is None or known[0] != log.length:
            names = [each.version.name for each in Catalog.of(log).versions[-1:] if each.version]
            names = [name for name in (log.name, *names) if name]
            known = log.length, frozenset(names) | frozenset(map(plain_name, names))
            self._names[log.key] = known
        return known[1]


def plain_name(name: str) -> str:
    """As registries spell names."""
    return _NOT_IN_NAMES.sub("-", name.lower()).strip("-")


async def _tell_nobody(_stage: str) -> None:
    await trio.lowlevel.checkpoint()
