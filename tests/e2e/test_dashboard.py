"""The dashboard in headless Chromium, with a node behind it."""

from __future__ import annotations

import html
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import trio

from tests.hypernode.sites import Site, api_site

NAME = "<b id=evil>web</b>"
"""A name that an author may give; it must be shown, not become part of the page."""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("chromium") is None, reason="needs chromium (apt-get install chromium)"),
]


async def _look(profile: Path, url: str) -> str:
    """The page as it is after some seconds of its own time; what it says to its console comes first."""
    command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]
    quiet = ["--disable-background-networking", "--disable-component-update", "--enable-logging=stderr", "--v=0"]
    with trio.fail_after(300):
        done = await trio.run_process(
            [*command, *quiet, f"--user-data-dir={profile}", "--virtual-time-budget=9000", "--dump-dom", url],
            capture_stdout=True,
            stderr=subprocess.STDOUT,
            env={"PATH": "/usr/bin:/bin", "HOME": str(profile), "TZ": "UTC"},
        )
    return done.stdout.decode()


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
        page = await _look(tmp_path / "profile", f"{site.url}/#{site.token}")
    assert 'data-state="live"' in page, page
    assert link in page
    assert html.escape(NAME) in page
    assert 'id="evil"' not in page
    assert len(re.findall(r"<polyline", page)) == 2
    assert re.search(r'<polyline class="in" points="[0-9.]+,[0-9.]+ ', page), "two rounds have drawn a line"
    assert len(re.findall(r'<rect class="stage\d"', page)) == len(stages)
    assert "manifest: 20 ms" in page
    assert "65.0 ms" in page
    assert "<td>share</td>" in page
    assert "data-fault" not in page, "the page or its policy complained"
    assert site.token not in page


async def test_without_the_token_it_asks_for_it(tmp_path: Path) -> None:
    async with api_site(tmp_path / "home") as site:
        page = await _look(tmp_path / "profile", f"{site.url}/")
        wrong = await _look(tmp_path / "other", f"{site.url}/#wrong")
    assert "a token is needed" in page
    assert re.search(r'<main id="shown" hidden', page)
    assert re.search(r'<form id="ask">', wrong)
