"""Names of images where links are asked for."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from hyperlog.errors import Conflict, HyperError, NotFound
from hypernode.api.network_requests import Diagnose
from hypernode.api.requests import REQUESTS, Boot, Images, Mount, Share, Status
from hypernode.api.version_requests import Diff, List
from hypernode.image_names import as_link, names_image, with_links
from tests.hypernode.sites import api_site

WEB = "hyper://8m7771qsxss56kyobodxdrtb4n7i1hr8u4wpmyzajctgn7fbjqgo"
DEV = "hyper://ybndrfg8ejkmcpqxot1uwisza345h769ybndrfg8ejkmcpqxot1y"
HERE = [(WEB, "web"), (DEV, "web:dev"), (DEV, "b"), (WEB, "b"), (DEV, None)]


@pytest.mark.parametrize(
    ("text", "link"),
    [
        ("web", WEB),
        ("web@3", f"{WEB}@3"),
        ("web?peer=/ip4/192.0.2.1/tcp/1", f"{WEB}?peer=/ip4/192.0.2.1/tcp/1"),
        ("web:dev", DEV),
        (WEB, WEB),
        (WEB.removeprefix("hyper://"), WEB.removeprefix("hyper://")),
        ("hyper://web", "hyper://web"),
    ],
)
def test_a_name_stands_for_its_link(text: str, link: str) -> None:
    assert as_link(text, HERE) == link


def test_in_a_place_a_path_follows() -> None:
    assert as_link("web@2:/etc", HERE, is_place=True) == f"{WEB}@2:/etc"
    assert as_link("web:/etc", HERE, is_place=True) == f"{WEB}:/etc"
    assert as_link("web:dev:/etc", HERE, is_place=True) == f"{DEV}:/etc"


@pytest.mark.parametrize(
    ("text", "kind"), [("we", NotFound), ("webs", NotFound), ("web:/etc", NotFound), ("", NotFound), ("b", Conflict)]
)
def test_what_names_nothing_or_two_is_said(text: str, kind: type[HyperError]) -> None:
    with pytest.raises(kind) as caught:
        as_link(text, HERE)
    assert caught.value.hint


def test_names_stand_in_requests_of_all_kinds() -> None:
    assert with_links(Diff("web@1", "web@2"), HERE) == Diff(f"{WEB}@1", f"{WEB}@2")
    assert with_links(List("web:/"), HERE) == List(f"{WEB}:/")
    assert with_links(Share("web", update="web"), HERE) == Share("web", update=WEB)
    assert with_links(Mount("there", "/mnt", remote="ssh://host"), HERE).link == "there"
    assert with_links(Diagnose("nothing"), HERE).link == "nothing"
    assert with_links(Boot("web"), HERE).link == WEB


def test_only_requests_about_an_image_look_at_names() -> None:
    assert not names_image(Status())
    assert not names_image(Images())
    for kind in REQUESTS.values():
        fields = {field.name for field in dataclasses.fields(kind)}
        assert not {name for name in fields if "link" in name} - {"link"}, "a link that names are not looked for in"


async def test_a_node_takes_names_and_pins_what_is_not_here_yet(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree/hello").write_text("world")
    async with api_site(tmp_path / "home") as site:
        link = (await site.ask("/v1/share", {"path": str(tmp_path / "tree"), "name": "web"})).json["result"]["link"]
        assert (await site.ask("/v1/show?link=web@1")).json["result"]["link"].startswith(link)
        created = await site.ask("/v1/container-create", {"link": "web", "name": "one"})
        assert created.status == 200, created.body
        (one,) = (await site.ask("/v1/container-list?all=true")).json["result"]["containers"]
        assert one["config"]["link"] == link
        pinned = await site.ask("/v1/pin", {"link": "web"})
        assert pinned.json["result"] == {"link": link, "pinned": True, "is_here": True}
        assert not (await site.ask("/v1/pin", {"link": WEB})).json["result"]["is_here"]
