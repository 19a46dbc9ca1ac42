"""Which image a gateway's URL means, and how many it looks for that nobody has."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from hyperlog.errors import Conflict, NotFound, Refused
from hyperlog.ids import to_text
from hyperlog.keys import KeyPair
from hyperlog.repository import open_repository
from hypernode.config import Config
from hypernode.http.gateway_images import GatewayImages
from hypernode.http.limits import GATEWAY_STRANGERS_MAX
from hypernode.node import open_node


async def test_names_and_keys_of_images(tmp_path: Path) -> None:
    async with open_node(Config(tmp_path), open_repository(tmp_path), is_daemon=False) as node:
        images = GatewayImages(node)
        log = node.repository.logs.create("My Web: 2")
        for name in ("My Web: 2", "my-web-2", to_text(log.key)):
            assert images.key_of(name) == log.key
        for name in ("my", "", "y" * 51 + "l", to_text(log.key).upper()):
            with pytest.raises(NotFound):
                images.key_of(name)
        node.repository.logs.create("my web 2")
        with pytest.raises(Conflict, match="several"):
            images.key_of("my-web-2")
        assert images.key_of("My Web: 2") == log.key


async def test_strangers_are_looked_for_up_to_a_bound(tmp_path: Path) -> None:
    async with open_node(Config(tmp_path), open_repository(tmp_path), is_daemon=False) as node:
        images = GatewayImages(node)
        keys = [to_text(KeyPair.generate().public) for _ in range(GATEWAY_STRANGERS_MAX)]
        for key in keys:
            with trio.move_on_after(0):
                await images.resolve(key, None)
        with pytest.raises(Refused, match="too many"):
            await images.resolve(to_text(KeyPair.generate().public), None)
        with trio.move_on_after(0) as again:
            await images.resolve(keys[0], None)
        assert again.cancelled_caught, "one that is looked for already may be asked for again"
        own = node.repository.logs.create("own")
        own.append(b"no version, but here")
        with pytest.raises(NotFound, match="no image version"):
            await images.resolve(to_text(own.key), None)
