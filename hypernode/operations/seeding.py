"""Standing orders to seed the images of others: given, taken back, listed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hyperlog.errors import Conflict, NotFound, Refused, Unavailable
from hyperlog.link import parse_link
from hypernode.api.seed_requests import SeedAdd, SeedRemove, SeedRequest, Seeds
from hypernode.api.server import Call
from hypernode.limits import SEED_VERSIONS_MAX
from hypernode.node import Node
from hypernode.operations.fetching import reporting
from hypernode.seeding import COMPLETE, DONE, FAILED
from hypernode.seeds import Seed, going_on, new_seed_id
from hypernode.sizes import check_ratio
from images.catalog import Catalog
from swarm.addresses import parse_address


async def operate_on_seeds(node: Node, request: SeedRequest, call: Call) -> Mapping[str, Any]:
    """Carry out `request`."""
    match request:
        case SeedAdd():
            return await _add(node, request, call)
        case SeedRemove():
            return _remove(node, request)
        case Seeds():
            return {"seeds": [seed_fields(node, seed) for seed in node.seeds.all()]}


async def _add(node: Node, request: SeedAdd, call: Call) -> Mapping[str, Any]:
    link = parse_link(request.link)
    peers = tuple(parse_address(peer).text for peer in (*request.peers, *link.peers))
    if not 1 <= request.versions <= SEED_VERSIONS_MAX:
        raise Refused(f"{request.versions} versions cannot be kept", f"choose 1 to {SEED_VERSIONS_MAX}")
    if link.version is not None and request.versions != 1:
        raise Refused("a link with a version means that one alone", "leave --versions out, or the version")
    if request.sparse and request.rate is not None:
        raise Refused("a sparse seed fetches nothing ahead, so it has no --rate", "leave one of them out")
    before = node.seeds.find(link.key, link.version)
    seed = Seed(
        id=new_seed_id(),
        key=link.key,
        version=link.version,
        is_sparse=request.sparse,
        versions=request.versions,
        budget=request.budget,
        rate=request.rate,
        ratio=None if request.ratio is None else check_ratio(request.ratio),
        peers=peers,
    )
    if before is not None:
        seed = going_on(seed, before)
    seed = begin(node, seed)
    if node.seeding is None:
        await call.event("note", text="no daemon runs in this home: `hypernode daemon` fetches and serves it")
        if request.wait:
            raise Conflict("there is nothing to wait for without a daemon", "start `hypernode daemon` first")
    elif request.wait:
        await _wait(node, seed, call)
    return seed_fields(node, seed)


def begin(node: Node, seed: Seed) -> Seed:
    """Remember an order and carry it out from here on. Raises `Conflict` when there are too many."""
    seed = node.seeds.put(seed)
    node.repository.logs.add_remote(seed.key)
    node.events.emit("seed", "add", seed.link, owner=seed.owner)
    if node.seeding is not None:
        node.seeding.start(seed)
    return seed


def end(node: Node, seed: Seed) -> None:
    """Take an order back."""
    if node.seeding is not None:
        node.seeding.stop(seed.id)
    node.seeds.remove(seed.id)
    node.events.emit("seed", "remove", seed.link, owner=seed.owner)


async def _wait(node: Node, seed: Seed, call: Call) -> None:
    seeding = node.seeding
    assert seeding is not None

    def look() -> tuple[int, int]:
        progress = seeding.progress(seed.id)
        progress.look(node.repository.blocks)
        return progress.here_bytes, progress.total_bytes

    async with reporting(call, "seeding", look):
        while True:
            if node.seeds.get(seed.id) is None:
                raise Conflict("the seed was taken back meanwhile", "`hypernode seed ls` lists seeds")
            progress = seeding.progress(seed.id)
            if progress.state == COMPLETE:
                return
            if progress.state == FAILED:
                raise Unavailable(
                    f"it cannot be seeded: {progress.detail}", "it is tried again as long as the daemon runs"
                )
            await seeding.wait_moved()


def _remove(node: Node, request: SeedRemove) -> Mapping[str, Any]:
    link = parse_link(request.link)
    found = node.seeds.of(link.key) if link.version is None else [node.seeds.find(link.key, link.version)]
    orders = [seed for seed in found if seed is not None]
    if not orders:
        raise NotFound("that is not seeded for others here", "`hypernode seed ls` lists what is")
    for seed in orders:
        end(node, seed)
    return {"removed": [seed.link for seed in orders]}


def seed_fields(node: Node, seed: Seed) -> dict[str, Any]:
    """An order and how far it is, as JSON fields. Without a daemon the state is "idle". `given_bytes` count since the
    newest version came, `given_ratio` is how many times the bytes that are held that is."""
    current = node.seeds.get(seed.id) or seed
    ratio = node.config.ratio if seed.ratio is None else seed.ratio
    given = max(0, node.swarm.giving.given(seed.key) - current.given_before)
    fields: dict[str, Any] = {
        "id": seed.id,
        "link": seed.link,
        "name": seed.name or _image_name(node, seed),
        "sparse": seed.is_sparse,
        "versions": seed.versions,
        "budget": seed.budget,
        "rate": seed.rate,
        "ratio": ratio,
        "owner": seed.owner,
        "added": seed.added,
        "kept": len([entry for entry, is_whole in current.kept.items() if is_whole]),
        "given_bytes": given,
        "given_ratio": round(given / current.held_bytes, 3) if current.held_bytes else None,
        "state": "idle",
        "detail": "no daemon runs",
        "newest": None,
        "here_bytes": 0,
        "total_bytes": 0,
    }
    if node.seeding is None:
        return fields
    progress = node.seeding.progress(seed.id)
    progress.look(node.repository.blocks)
    is_done = progress.state == COMPLETE and node.swarm.giving.is_spent(seed.key)
    return {
        **fields,
        "state": DONE if is_done else progress.state,
        "detail": progress.detail,
        "newest": progress.newest,
        "here_bytes": progress.here_bytes,
        "total_bytes": progress.total_bytes,
    }


def _image_name(node: Node, seed: Seed) -> str | None:
    try:
        log = node.repository.logs.open(seed.key)
    except NotFound:
        return None
    versions = Catalog.of(log).versions
    return log.name or next((each.version.name for each in reversed(versions) if each.version), None)
