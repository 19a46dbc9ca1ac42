"""`hypernode doctor`: host and home from here, network and link from the home's node, told as they come."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Any, Final

import trio

from hyperlog.errors import HyperError
from hypernode.api.network_requests import Diagnose
from hypernode.cli.reach import reach_node
from hypernode.cli.tables import plain
from hypernode.config import Config
from hypernode.doctor.checks import Check, State
from hypernode.doctor.home import check_home
from hypernode.doctor.host import check_host
from hypernode.doctor.settings import check_settings
from hypernode.errors import expected
from hypernode.exit_codes import EXIT_OK, EXIT_UNWELL

_MARKS: Final = {State.OK: "ok", State.WARN: "warn", State.FAIL: "FAIL", State.SKIP: "-"}
_COLOURS: Final = {State.OK: "32", State.WARN: "33", State.FAIL: "1;31", State.SKIP: "2"}
_NODE_SECONDS: Final = 20.0
"""For all that the node is asked: each of its checks ends by itself within half of that, in all."""


class _Report:
    """Prints checks as they come, unless they are for a program."""

    def __init__(self, *, as_json: bool) -> None:
        self._is_quiet = as_json
        self._area = ""
        self.checks: list[dict[str, Any]] = []

    def add(self, check: Mapping[str, Any]) -> None:
        self.checks.append({name: check[name] for name in ("area", "name", "state", "words", "hint", "facts")})
        if self._is_quiet:
            return
        if check["area"] != self._area:
            self._area = check["area"]
            print(f"{self._area}", flush=True)
        state = State(check["state"])
        mark = f"{_MARKS[state]:<4}"
        if sys.stdout.isatty():
            mark = f"\033[{_COLOURS[state]}m{mark}\033[0m"
        print(f"  {mark}  {check['name']}: {plain(check['words'])}")
        if check["hint"] and state is not State.OK:
            print(f"        hint: {plain(check['hint'])}")
        sys.stdout.flush()

    def event(self, kind: str, fields: Mapping[str, Any]) -> None:
        if kind == "check":
            self.add(fields)


async def doctor(config: Config, arguments: Mapping[str, Any]) -> int:
    """Every check; whether any failed is the exit status."""
    report = _Report(as_json=arguments["as_json"])
    settings = check_settings(arguments["config_file"])
    for check in [*settings, *await trio.to_thread.run_sync(check_host, config.kvm_trial), *await check_home(config)]:
        report.add(check.fields())
    asked = "store"
    with trio.move_on_after(_NODE_SECONDS) as scope:
        try:
            async with reach_node(config) as node:
                report.add(_store(hosted_here=node.hosted_here).fields())
                asked = "node"
                request = Diagnose(arguments["link"], tuple(arguments["peers"]))
                await node.client.call(request, report.event)
        except (HyperError, BaseExceptionGroup) as error:
            known = expected(error)
            if known is None:
                raise
            report.add(Check("home", asked, State.FAIL, known.message, known.hint).fields())
    if scope.cancelled_caught:
        words = f"the node did not answer within {_NODE_SECONDS:g} s"
        report.add(Check("home", "node", State.FAIL, words, "look at its log, or start it again").fields())
    failed = sum(check["state"] == State.FAIL for check in report.checks)
    warned = sum(check["state"] == State.WARN for check in report.checks)
    if arguments["as_json"]:
        print(json.dumps({"ok": not failed, "checks": report.checks}))
    else:
        print("everything works" if not failed + warned else f"{failed} failed, {warned} with warnings")
    return EXIT_UNWELL if failed else EXIT_OK


def _store(*, hosted_here: bool) -> Check:
    if hosted_here:
        return Check("home", "store", State.OK, "the store opened, and holds all that it acknowledged")
    return Check("home", "store", State.OK, "the node that runs has the store open")
