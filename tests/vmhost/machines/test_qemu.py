"""The control session, the console, and how an end is told, without a hypervisor."""

from __future__ import annotations

import json
import os
import signal
import socket
from contextlib import suppress
from pathlib import Path

import pytest
import trio

from vmhost.machines import limits
from vmhost.machines.console_log import ConsoleLog, printable_lines
from vmhost.machines.errors import CommandFailed, MachineFailed
from vmhost.machines.kvm_probe import probe_kvm
from vmhost.machines.qemu import machine_end
from vmhost.machines.qmp import ControlSession
from vmhost.machines.tsc import measure_tsc_khz
from vmhost.streams import Source


class FakeQemu:
    """The other end of a control session."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        self.session = ControlSession(ours)
        theirs.setblocking(False)
        self.stream = trio.SocketStream(trio.socket.from_stdlib_socket(theirs))

    async def say(self, message: object) -> None:
        await self.stream.send_all(json.dumps(message).encode() + b"\n")


async def test_commands_and_events_share_the_line(nursery: trio.Nursery) -> None:
    qemu = FakeQemu()
    nursery.start_soon(qemu.session.run)
    await qemu.say({"QMP": {}})
    await qemu.say({"return": {}})
    await qemu.session.negotiate()
    await qemu.say({"event": "SHUTDOWN", "data": {"guest": True, "reason": "guest-shutdown"}})
    await qemu.say({"return": {"status": "running"}})
    assert await qemu.session.execute("query-status") == {"status": "running"}
    assert qemu.session.shutdown_reason == "guest-shutdown"
    await qemu.say({"error": {"class": "GenericError", "desc": "no"}})
    with pytest.raises(CommandFailed, match="no"):
        await qemu.session.execute("balloon", {"value": 1})
    assert b'"arguments": {"value": 1}' in await qemu.stream.receive_some()
    await qemu.stream.aclose()
    with pytest.raises(MachineFailed):
        await qemu.session.execute("query-status")


@pytest.mark.parametrize(
    "said", [b"[1]\n", b"nonsense\n", b'{"return": {}}\n' * 2, b"x" * (limits.CONTROL_LINE_BYTES + 1)]
)
async def test_what_is_no_qmp_ends_the_session(said: bytes) -> None:
    qemu = FakeQemu()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(qemu.session.run)
        with suppress(trio.BrokenResourceError):
            await qemu.stream.send_all(said)
        nursery.start_soon(qemu.stream.receive_some)
        with trio.fail_after(30):
            while True:
                try:
                    await qemu.session.execute("query-status")
                except MachineFailed:
                    break
        nursery.cancel_scope.cancel()
    await qemu.stream.aclose()


async def test_qemu_may_end_before_it_greets(nursery: trio.Nursery) -> None:
    qemu = FakeQemu()
    nursery.start_soon(qemu.session.run)
    await qemu.stream.aclose()
    with trio.fail_after(30), pytest.raises(MachineFailed):
        await qemu.session.negotiate()


def sizes(directory: Path) -> dict[str, int]:
    return {path.name: path.stat().st_size for path in directory.iterdir()}


async def test_a_flooded_console_stays_within_bounds(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> None:
    reading, writing = os.pipe2(os.O_CLOEXEC)
    console = ConsoleLog(tmp_path)
    line = b"\x1b[31mspam\x07\r\n" * 1000

    def flood() -> None:
        with open(writing, "wb") as sink:
            sink.writelines(line for _ in range(4 * limits.CONSOLE_FILE_BYTES // len(line)))
            sink.write(b"\x1b]0;title\x07the end\r\n")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.to_thread.run_sync, flood)
        with Source(reading) as source:
            await console.keep(source)
    kept = sizes(tmp_path)
    assert kept.keys() == {"console.log", "console.old"}
    assert max(kept.values()) <= limits.CONSOLE_FILE_BYTES
    assert console.bytes_seen > 3 * limits.CONSOLE_FILE_BYTES
    assert console.last_lines()[-2] == "spam"
    assert console.last_lines()[-1].endswith("the end")


def test_what_a_guest_says_cannot_act_on_a_terminal() -> None:
    assert printable_lines(b"a\x1b[2Jb\x00\x07\r\n\n \xc3\xa9\n") == ["ab", " é"]


@pytest.mark.parametrize(
    ("status", "reason", "words", "killed", "by_guest", "told"),
    [
        (0, "guest-shutdown", b"", False, True, "turned itself off"),
        (0, "guest-reset", b"", False, False, "the guest rebooted"),
        (-signal.SIGKILL, None, b"", False, False, "killed"),
        (-signal.SIGKILL, None, b"", True, False, "from here"),
        (-signal.SIGSEGV, None, b"", False, False, "signal 11"),
        (-signal.SIGBUS, None, b"", False, False, "disk that its memory is a file of is full"),
        (1, None, b"qemu: could not load kernel\n", False, False, "could not load kernel"),
        (1, None, b"", False, False, "status 1"),
    ],
)
def test_how_it_ended(status: int, reason: str | None, words: bytes, killed: bool, by_guest: bool, told: str) -> None:
    end = machine_end(status, reason, words, ["one word"], killed_by_us=killed)
    assert end.by_guest is by_guest
    assert told in end.reason


def test_a_panic_is_told_in_the_kernels_words() -> None:
    console = ["[    1.5] Kernel panic - not syncing: Attempted to kill init! exitcode=0x9", "[    1.5] CPU: 0 PID: 1"]
    end = machine_end(0, "guest-reset", b"", console, killed_by_us=False)
    assert not end.by_guest
    assert end.reason == "the guest's kernel panicked: Attempted to kill init! exitcode=0x9"


def test_the_clock_is_measured_alike_twice() -> None:
    first, second = measure_tsc_khz(), measure_tsc_khz()
    assert (first is None) == (second is None)
    if first is not None and second is not None:
        assert abs(first - second) < first / 10


def test_the_probe_of_kvm_comes_to_a_verdict() -> None:
    verdict = probe_kvm()
    assert verdict is None or verdict
    if not os.path.exists("/dev/kvm"):
        assert verdict == "there is no /dev/kvm"
