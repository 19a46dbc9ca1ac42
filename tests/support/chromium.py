"""Headless Chromium, spoken with over a pipe (the DevTools protocol: JSON values that end with NUL)."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import trio

_SECONDS: Final = 300.0
_PAUSE_SECONDS: Final = 0.1
_PROGRAM: Final = ("chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage")
_QUIET: Final = ("--no-first-run", "--disable-background-networking", "--disable-component-update")


class Page:
    """One page. Everything raises `trio.TooSlowError` when it takes too long."""

    def __init__(self, commands: trio.abc.SendStream, answers: trio.abc.ReceiveStream) -> None:
        self._commands = commands
        self._answers = answers
        self._received = b""
        self._number = 0
        self._session: str | None = None

    async def open(self, url: str) -> None:
        """A new page there."""
        target = await self._call("Target.createTarget", url="about:blank")
        attached = await self._call("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        self._session = attached["sessionId"]
        await self._call("Page.navigate", url=url)

    async def value(self, expression: str) -> Any:
        """What the expression is there, as JSON."""
        told = await self._evaluate(expression)
        assert "exceptionDetails" not in told, told
        return told["result"].get("value")

    async def wait(self, expression: str) -> Any:
        """Until the expression is true there, which may fail while the page is loaded; its value."""
        with trio.fail_after(_SECONDS):
            while True:
                told = await self._evaluate(expression)
                if "exceptionDetails" not in told and (found := told["result"].get("value")):
                    return found
                await trio.sleep(_PAUSE_SECONDS)

    async def _evaluate(self, expression: str) -> Any:
        return await self._call("Runtime.evaluate", expression=expression, returnByValue=True)

    async def _call(self, method: str, **parameters: object) -> Any:
        self._number += 1
        asked = {"id": self._number, "method": method, "params": parameters}
        if self._session is not None:
            asked["sessionId"] = self._session
        with trio.fail_after(_SECONDS):
            await self._commands.send_all(json.dumps(asked).encode() + b"\0")
            while (answer := await self._next()).get("id") != self._number:
                continue
        assert "error" not in answer, answer
        return answer["result"]

    async def _next(self) -> dict[str, Any]:
        while b"\0" not in self._received:
            piece = await self._answers.receive_some()
            assert piece, "Chromium ended"
            self._received += bytes(piece)
        line, _, self._received = self._received.partition(b"\0")
        answer: dict[str, Any] = json.loads(line)
        return answer


@asynccontextmanager
async def browsing(profile: Path, url: str) -> AsyncIterator[Page]:
    """A browser of its own with a page there."""
    commands, ours = os.pipe2(os.O_CLOEXEC)
    answers, theirs = os.pipe2(os.O_CLOEXEC)
    argv = [*_PROGRAM, *_QUIET, "--remote-debugging-pipe", f"--user-data-dir={profile}", "about:blank"]
    process = await trio.lowlevel.open_process(
        ["bash", "-c", f'exec "$@" 3<&{commands} 4>&{theirs}', "bash", *argv],
        pass_fds=(commands, theirs),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={"PATH": "/usr/bin:/bin", "HOME": str(profile), "TZ": "UTC"},
    )
    os.close(commands)
    os.close(theirs)
    try:
        async with trio.lowlevel.FdStream(ours) as sending, trio.lowlevel.FdStream(answers) as receiving:
            page = Page(sending, receiving)
            await page.open(url)
            yield page
    finally:  # whose pipe is closed ends by itself, its own processes with it
        with trio.move_on_after(_SECONDS, shield=True):
            await process.wait()
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()
