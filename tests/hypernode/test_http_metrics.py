"""What Prometheus would read."""

from __future__ import annotations

from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from tests.hypernode.sites import api_site


async def test_metrics_are_prometheus_text_and_count_what_happened(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "hello").write_bytes(bytes(100_000))
    async with api_site(tmp_path / "home") as site:
        assert (await site.ask("/metrics", token="x")).status == 401
        shared = await site.ask("/v1/share", {"path": str(tmp_path / "tree")})
        link = shared.json["result"]["link"]
        seeded = await site.ask("/v1/seed-add", {"link": link, "sparse": True})
        assert seeded.status == 200, seeded.body
        (seed,) = (await site.ask("/v1/seeds")).json["result"]["seeds"]
        answer = await site.ask("/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    families = {family.name: family for family in text_string_to_metric_families(answer.body.decode())}
    values = {
        (sample.name, *sample.labels.values()): sample.value for each in families.values() for sample in each.samples
    }
    assert values["hypernode_images",] == 1
    assert values["hypernode_store_disk_bytes",] > 0
    assert values["hypernode_events_total", "share", "image"] == 1
    assert values["hypernode_image_peers", link] == 0
    assert values["hypernode_blocks_total", "in"] == 0
    assert values["hypernode_events_total", "add", "seed"] == 1
    assert values["hypernode_seeds", "idle"] == 1
    assert values["hypernode_seed_bytes", "here", seed["link"]] == 0
    assert values["process_resident_memory_bytes",] > 0
    for name, family in families.items():
        assert family.documentation or name == "hypernode_build_info", name
        assert name.startswith(("hypernode_", "process_")), name
