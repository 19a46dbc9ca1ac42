"""What a node measures of itself, for Prometheus: `GET /metrics`, in its text format.

Names and units as Prometheus has them: `hypernode_`, base units (bytes, seconds), counters end in `_total`. They are
put together when they are asked for, from counters that the node keeps anyway. Labels are bounded: lanes, stages and
kinds of events are few, images are those of this home, of seeds there are the first hundred, and peers have none (they
come and go without end).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from importlib.metadata import version

import trio
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric, SummaryMetricFamily
from prometheus_client.registry import Collector
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from hyperlog.link import Link
from hypernode.containers.store import ContainerStore
from hypernode.http.limits import METRIC_SEEDS_MAX
from hypernode.node import Node
from hypernode.operations.seeding import seed_fields


def routes(node: Node) -> list[BaseRoute]:
    """The one route."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    collector = _NodeCollector(node)
    registry.register(collector)

    async def metrics(_request: Request) -> Response:
        await trio.to_thread.run_sync(collector.look)
        return Response(generate_latest(registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    return [Route("/metrics", metrics)]


class _NodeCollector(Collector):
    def __init__(self, node: Node) -> None:
        self._node = node
        self._disk_bytes = 0
        self._containers: Counter[str] = Counter()

    def look(self) -> None:
        """Look up what is in files. Blocks for it."""
        self._disk_bytes = self._node.repository.blocks.disk_bytes()
        store = ContainerStore(self._node.config.containers)
        self._containers = Counter(container.read_state().status for container in store.list())

    def describe(self) -> list[Metric]:
        return []  # else the registry would collect at once

    def collect(self) -> Iterator[Metric]:
        yield InfoMetricFamily("hypernode_build", "Which hypernode this is", {"version": version("hypernode")})
        yield from self._of_store()
        yield from self._of_swarm()
        yield from self._of_transfers()
        yield from self._of_boots()

    def _of_store(self) -> Iterator[Metric]:
        logs = [log for log in self._node.repository.logs.list() if log.length]
        yield _gauge("hypernode_store_disk_bytes", "Disk that blocks take", self._disk_bytes)
        yield _gauge("hypernode_images", "Images here", len(logs))
        containers = GaugeMetricFamily("hypernode_containers", "Containers of this home", labels=["status"])
        for status, count in sorted(self._containers.items()):
            containers.add_metric([status], count)
        yield containers
        yield from self._of_seeds()
        yield _gauge("hypernode_mounts", "Directories where an image is mounted", len(self._node.views))

    def _of_seeds(self) -> Iterator[Metric]:
        rows = [seed_fields(self._node, seed) for seed in self._node.seeds.all()]
        states = GaugeMetricFamily("hypernode_seeds", "Seeds, by how they fare", labels=["state"])
        for state, count in sorted(Counter(row["state"] for row in rows).items()):
            states.add_metric([state], count)
        yield states
        sizes = GaugeMetricFamily("hypernode_seed_bytes", "Bytes of a seed", labels=["seed", "kind"])
        for row in rows[:METRIC_SEEDS_MAX]:
            sizes.add_metric([row["link"], "here"], row["here_bytes"])
            sizes.add_metric([row["link"], "total"], row["total_bytes"])
        yield sizes

    def _of_swarm(self) -> Iterator[Metric]:
        seen = self._node.swarm.statistics()
        open_now = {peer for log in seen.logs for peer in log.peers}
        yield _gauge("hypernode_swarm_connected_peers", "Peers with an open session", len(open_now))
        yield _gauge("hypernode_swarm_banned_peers", "Peers that are banned now", seen.bans)
        yield _gauge("hypernode_swarm_held_bytes", "Memory that sessions keep for their peers", seen.held_bytes)
        yield _counter("hypernode_swarm_bans", "Peers that were banned", seen.peers_banned)
        yield _counter("hypernode_swarm_dials", "Dials", seen.dials)
        yield _counter("hypernode_swarm_dials_failed", "Dials that failed", seen.dials_failed)
        yield _counter("hypernode_swarm_handshakes_failed", "Handshakes that failed", seen.handshakes_failed)
        yield _counter(
            "hypernode_swarm_sessions_refused", "Sessions for which there was no room", seen.sessions_refused
        )
        moved = CounterMetricFamily("hypernode_swarm_bytes", "Bytes of the protocol", labels=["direction"])
        moved.add_metric(["in"], seen.bytes_in)
        moved.add_metric(["out"], seen.bytes_out)
        yield moved
        of_image = GaugeMetricFamily("hypernode_image_peers", "Peers connected for an image", labels=["image"])
        for log in seen.logs:
            of_image.add_metric([Link(log.key).text], len(log.peers))
        yield of_image

    def _of_transfers(self) -> Iterator[Metric]:
        seen = self._node.swarm.statistics().blocks
        moved = CounterMetricFamily("hypernode_blocks", "Blocks moved", labels=["direction"])
        moved.add_metric(["in"], seen.blocks_in)
        moved.add_metric(["out"], seen.blocks_out)
        yield moved
        sizes = CounterMetricFamily("hypernode_block_bytes", "Stored bytes of blocks moved", labels=["direction"])
        sizes.add_metric(["in"], seen.bytes_in)
        sizes.add_metric(["out"], seen.bytes_out)
        yield sizes
        lanes = CounterMetricFamily("hypernode_lane_block_bytes", "Bytes that came, by urgency", labels=["lane"])
        waiting = GaugeMetricFamily("hypernode_lane_waiting_blocks", "Blocks waited for now", labels=["lane"])
        for lane, counted in seen.lanes.items():
            lanes.add_metric([lane], counted.bytes)
            waiting.add_metric([lane], counted.waiting)
        yield lanes
        yield waiting
        yield _counter("hypernode_duplicate_blocks", "Blocks that came twice", seen.duplicates)
        yield _counter("hypernode_block_requests", "Requests for blocks", seen.requests)
        yield _counter("hypernode_block_requests_repeated", "Asked of another peer, too", seen.requests_repeated)
        yield _counter("hypernode_block_requests_late", "Requests that were answered late", seen.requests_late)
        yield _gauge("hypernode_block_requests_in_flight", "Requests under way", seen.requests_in_flight)

    def _of_boots(self) -> Iterator[Metric]:
        counts = self._node.events.counts
        happened = CounterMetricFamily(
            "hypernode_events", "What happened (hypernode events)", labels=["type", "action"]
        )
        for (kind, action), count in sorted(counts.items()):
            happened.add_metric([kind, action], count)
        yield happened
        boots = counts["boot", "start"]
        yield _gauge("hypernode_boots_running", "Roots held for containers", boots - counts["boot", "end"])
        stages = SummaryMetricFamily("hypernode_boot_stage_seconds", "The node's part of boots", labels=["stage"])
        for stage, seconds in self._node.boot_seconds.items():
            stages.add_metric([stage], count_value=boots, sum_value=seconds)
        yield stages


def _counter(name: str, words: str, value: float) -> Metric:
    return CounterMetricFamily(name, words, value=value)


def _gauge(name: str, words: str, value: float) -> Metric:
    return GaugeMetricFamily(name, words, value=value)
