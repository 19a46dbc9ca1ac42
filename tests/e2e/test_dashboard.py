"""The dashboard in headless Chromium, with a node behind it."""

from __future__ import annotations

import html
import re
import shutil
from pathlib import Path

import pytest
import trio

from tests.hypernode.sites import Site, api_site
from tests.support.chromium import browsing

NAME = "<b id=evil>web</b>"
"""A name that an author may give; it must be shown, not become part of the page."""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("chromium") is None, reason="needs chromium (apt-get install chromium)"),
]


async def _share(site: Site, directory: Path) -> str:
    Path(directory).mkdir()  # noqa: ASYNC240  # nothing else runs
    shared = await site.ask("/v1/share", {"path": str(directory), "name": NAME, "message": "first"})
    assert shared.status == 200, shared.body
    return str(shared.json["result"]["link"])


async def test_it_shows_images_transfer_and_boots(tmp_path: Path) -> None:
    async with api_site(tmp_path / "home") as site:
        link = await _share(site, tmp_path / "tree")
        stages = {"log": 1.5, "manifest": 20.0, "header": 3.0, "mount": 40.5}
        site.node.events.emit("boot", "start", link, version=1, **stages)
        async with browsing(tmp_path / "profile", f"{site.url}/#{site.token}") as page:
            await page.wait("document.body.dataset.state === 'live'")
            await page.wait(r"/[0-9.]+,[0-9.]+ /.test(document.querySelector('polyline.in').getAttribute('points'))")
            shown = await page.value("document.documentElement.outerHTML")
    assert link in shown
    assert html.escape(NAME) in shown
    assert 'id="evil"' not in shown
    assert len(re.findall(r"<polyline", shown)) == 2
    assert len(re.findall(r'<rect class="stage\d"', shown)) == len(stages)
    assert "manifest: 20 ms" in shown
    assert "65.0 ms" in shown
    assert "<td>share</td>" in shown
    assert "data-fault" not in shown, "the page or its policy complained"
    assert site.token not in shown


async def test_what_happens_is_shown_by_events_and_counters_alone_are_asked_for(tmp_path: Path) -> None:
    asked = "performance.getEntriesByType('resource').filter((one) => one.name.includes('/v1/{}')).length"
    others = ("images", "container-list", "seeds", "events")
    async with api_site(tmp_path / "home") as site:
        await _share(site, tmp_path / "tree")
        async with browsing(tmp_path / "profile", f"{site.url}/#{site.token}") as page:
            await page.wait("document.body.dataset.state === 'live'")
            before: list[int] = []
            with trio.fail_after(300):  # soon only counters are asked for, as nothing happens
                while before != (before := [await page.value(asked.format(what)) for what in others]):
                    rounds = await page.value(asked.format("status"))
                    await page.wait(f"{asked.format('status')} >= {rounds + 2}")
            site.node.events.emit("container", "start", "0123456789ab")
            await page.wait("document.querySelector('#events').textContent.includes('0123456789ab')")
            await page.wait(f"{asked.format('container-list')} > {before[1]}")
            assert await page.value(asked.format("seeds")) == before[2]
            renamed = await site.ask("/v1/share", {"path": str(tmp_path / "tree"), "name": "another"})
            assert renamed.status == 200
            await page.wait("document.querySelector('#images').textContent.includes('another')")
            assert await page.value("document.body.dataset.fault") is None


async def test_without_the_token_it_asks_for_it(tmp_path: Path) -> None:
    async with api_site(tmp_path / "home") as site:
        async with browsing(tmp_path / "profile", f"{site.url}/") as page:
            await page.wait("document.querySelector('#state').textContent === 'a token is needed'")
            assert await page.value("document.querySelector('#shown').hidden")
            await page.value("location.hash = 'wrong'; location.reload()")
            await page.wait("sessionStorage.getItem('token') === null && !document.querySelector('#ask').hidden")
            assert await page.value("document.querySelector('#shown').hidden")
