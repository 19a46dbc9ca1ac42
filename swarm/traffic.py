"""What blocks move, by lane and by log, and what holds them up: made to be shown."""

from __future__ import annotations

from collections.abc import Iterable

from hyperlog.lanes import Lane
from swarm.block_server import ServePolicy
from swarm.connection import LiveSession
from swarm.fetcher import Fetcher
from swarm.stats import BlockStats, Counters, LaneStats, LogTraffic, PeerCounters


def block_stats(totals: Counters, fetcher: Fetcher, serving: ServePolicy) -> BlockStats:
    counts, policy = fetcher.counts, fetcher.policy
    return BlockStats(
        blocks_in=totals.blocks_in,
        blocks_out=totals.blocks_out,
        bytes_in=totals.block_bytes_in,
        bytes_out=totals.block_bytes_out,
        ratio=round(totals.block_bytes_out / totals.block_bytes_in, 3) if totals.block_bytes_in else None,
        duplicates=totals.blocks_duplicate,
        duplicate_bytes=totals.bytes_duplicate,
        lanes={
            lane.name.lower(): LaneStats(totals.lane_blocks[lane], totals.lane_bytes[lane], fetcher.waiting_in(lane))
            for lane in Lane
        },
        requests=counts.asks,
        requests_in_flight=fetcher.in_flight_count,
        requests_repeated=counts.repeated,
        requests_late=counts.late,
        requests_hedged=counts.hedges,
        answered_soon=counts.soon,
        answered_not_held=counts.not_held,
        said_soon=totals.soon_said,
        upload_limit=None if serving.throttle is None else serving.throttle.rate,
        download_limit=policy.download_limit,
        upload_waits=0 if serving.throttle is None else serving.throttle.waits,
        download_waits=counts.limited,
        leech_only=serving.giving.leech_only,
        upload_only=policy.upload_only,
    )


def log_traffic(past: PeerCounters, sessions: Iterable[LiveSession], now: float) -> LogTraffic:
    """`past`: what sessions moved that have ended."""
    live = list(sessions)
    moved = [past, *(session.moved for session in live)]
    return LogTraffic(
        rate_in=round(sum(session.meter_in.rate(now) for session in live)),
        rate_out=round(sum(session.meter_out.rate(now) for session in live)),
        bytes_in=sum(one.bytes_in for one in moved),
        bytes_out=sum(one.bytes_out for one in moved),
        blocks_in=sum(one.blocks_in for one in moved),
        blocks_out=sum(one.blocks_out for one in moved),
    )
