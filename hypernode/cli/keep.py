"""Keeping a detached container: its runs, one after the other, as its restart policy says (see keeper.py)."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import trio

from hyperlog.errors import HyperError
from hypernode.api.client import Client
from hypernode.api.codec import encode_event, encode_failure, encode_result
from hypernode.cli.reach import reach_node, wait_node
from hypernode.cli.run_command import print_error
from hypernode.cli.running import Descriptors, Ran, run_kept
from hypernode.config import Config
from hypernode.containers.control import answer
from hypernode.containers.keeper import Keeper, keeping
from hypernode.containers.launch import read_launch
from hypernode.containers.logs import LogWriter
from hypernode.containers.output import Output, Streams
from hypernode.containers.policy import next_delay, parse_policy
from hypernode.containers.snapshots import Snapshot, SnapshotStore
from hypernode.containers.store import Container, ContainerStore
from hypernode.errors import NodeGone, expected, first_leaf
from hypernode.exit_codes import EXIT_BOOT_FAILED, EXIT_BUG, EXIT_KILLED, EXIT_OK
from hypernode.limits import KEEPER_DIAL_SECONDS, NODE_BACK_SECONDS
from hypernode.logs import set_up_logging
from vmhost.payload import REBOOTED


class _Report:
    """To whoever started the keeper: lines, until the program runs or cannot."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def event(self, kind: str, fields: Mapping[str, Any]) -> None:
        self._write(encode_event(kind, fields))

    def done(self, keeper: Keeper) -> None:
        state = keeper.state
        told = {"link": state.link, "version": state.version, "timings": keeper.timings}
        self._last(encode_result({"id": keeper.container.spec.id, **told}))

    def failed(self, error: HyperError) -> None:
        self._last(encode_failure(error))

    def _last(self, line: bytes) -> None:
        self._write(line)
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _write(self, line: bytes) -> None:
        if self._descriptor >= 0:
            with suppress(OSError):  # nobody waits any more
                os.write(self._descriptor, line)


def keep_detached(raw: bytes, telling: int) -> int:
    """Keep the container that `raw` names; what became of its start goes to the descriptor `telling`."""
    report = _Report(telling)
    try:
        config, identity, may_host, snapshot = read_launch(raw)
        set_up_logging(config.log_level, config.log_format, with_tracebacks=True)
        found = None if snapshot is None else SnapshotStore(config.snapshots).get(snapshot)
        trio.run(_keep, config, identity, may_host, found, report)
    except Exception as error:
        known = expected(error)
        if known is None:
            report.failed(HyperError(f"bug in hypernode: {first_leaf(error)!r}", "see the container's keeper.log"))
            raise
        report.failed(known)
        print_error(known)
        return EXIT_BUG
    return EXIT_OK


async def _keep(config: Config, identity: str, may_host: bool, snapshot: Snapshot | None, report: _Report) -> None:
    """Where this process becomes the node, it stays for its guests; the container is let go of before."""
    container = ContainerStore(config.containers).get(identity)
    if not may_host:
        await _keep_on(await wait_node(config, KEEPER_DIAL_SECONDS), config, container, snapshot, report)
        return
    async with reach_node(config) as node:
        await _keep_on(node.client, config, container, snapshot, report)


async def _keep_on(
    client: Client, config: Config, container: Container, snapshot: Snapshot | None, report: _Report
) -> None:
    asked = container.spec.asked
    output = Output(LogWriter(container.log, asked.log_max_size, asked.log_max_files))
    async with keeping(config, container, output, answer) as keeper, keeper.telling():
        await _Keeping(config, keeper, output, snapshot, report).run(client)
    if container.spec.asked.auto_remove:
        container.remove()


class _Keeping:
    """All the runs of one container."""

    def __init__(
        self, config: Config, keeper: Keeper, output: Output, snapshot: Snapshot | None, report: _Report
    ) -> None:
        """`snapshot`: what the first run goes on with."""
        self._snapshot = snapshot
        self._config = config
        self._keeper = keeper
        self._output = output
        self._report = report
        self._delay = 0.0
        keeper.on_started = lambda: report.done(keeper)

    async def run(self, client: Client) -> None:
        """Until it is not to be run again."""
        while True:
            began = trio.current_time()
            ran = await self._attempt(client)
            if ran is None:
                return
            state = self._keeper.state
            asked = self._keeper.container.spec.asked  # that of now: it may be changed
            again = parse_policy(asked.restart).wants(ran.exit_code, state.restart_count, stopped=state.stopped)
            again = again or (asked.system and ran.exit_code == REBOOTED and not state.stopped)
            self._keeper.end_run(ran.exit_code, ran.error, oom_killed=ran.oom_killed, again=again)
            self._report.done(self._keeper)
            if not again:
                if self._keeper.container.spec.asked.auto_remove:
                    self._keeper.tell("destroy")
                return
            self._delay = next_delay(self._delay, trio.current_time() - began)
            try:
                if not await self._keeper.wait_before_restart(self._pause):
                    return
            except NodeGone as error:
                self._keeper.end_run(EXIT_KILLED, error.message)
                print_error(error)
                return

    async def _pause(self) -> None:
        """Before the next run. A node that was killed meanwhile is waited for. Raises `NodeGone`."""
        await trio.sleep(self._delay)
        await wait_node(self._config, NODE_BACK_SECONDS)

    async def _attempt(self, client: Client) -> Ran | None:
        """One run. None when it could not be: the node has ended, or refuses; that is told and written down.

        Of a further run, a node that was killed before it ran is no such end: there may be another soon.
        """
        asked = self._keeper.container.spec.asked
        snapshot, self._snapshot = self._snapshot, None
        streams = Streams(self._output, tty=asked.tty, keeps_stdin=asked.stdin)
        self._keeper.streams = streams
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(streams.pump)
                try:
                    descriptors = Descriptors(streams.stdin, streams.stdout, streams.stderr, tty=asked.tty)
                    ran = await run_kept(
                        self._config, client, self._keeper, descriptors, self._report.event, snapshot=snapshot
                    )
                finally:
                    streams.end_of_run()
            return ran
        except Exception as error:
            known = expected(error)
            if known is None:
                raise
            if isinstance(known, NodeGone) and self._keeper.state.restart_count and self._keeper.machine is None:
                return Ran(error=known.message)  # a failed run, and the policy holds
            code = EXIT_KILLED if isinstance(known, NodeGone) else EXIT_BOOT_FAILED
            self._keeper.end_run(code, known.message)
            self._report.failed(known)
            print_error(known)
            return None
        finally:
            self._keeper.streams = None
            await streams.aclose()
