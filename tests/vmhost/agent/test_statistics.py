"""A kernel's tables, and tables that no kernel made."""

from __future__ import annotations

import random

import pytest

from hyperlog.encoding import Value
from vmhost.agent.statistics import GuestUsage, container_usage, guest_usage, process_rows
from vmhost.errors import AgentMisbehaved
from vmhost.machine import ProcessRow, Usage

_NET = (
    b"Inter-|   Receive    |  Transmit\n face |bytes packets errs drop fifo frame compressed multicast|bytes\n"
    b"    lo:  999    9 0 0 0 0 0 0  999 9 0 0 0 0 0 0\n  eth0:1000 10 0 0 0 0 0 0 2000 20 0 0 0 0 0 0\n"
)
_CONTAINER = {
    "cpu.stat": b"usage_usec 1500000\nuser_usec 1000000\nsystem_usec 500000\n",
    "memory.current": b"2232320\n",
    "memory.max": b"max\n",
    "io.stat": b"254:0 rbytes=1000 wbytes=20 rios=3 wios=1\n254:16 rbytes=24 wbytes=0\n",
    "net": _NET,
}
_GUEST = {
    "stat": b"cpu  100 0 200 5000 30 0 10 0 0 0\ncpu0 1 2 3\n",
    "meminfo": b"MemTotal:  200000 kB\nMemFree:  1 kB\nMemAvailable:  150000 kB\n",
    "diskstats": b" 254       0 vda 22 0 3640 11 5 0 80 0 0 16 11 0 0 0 0 0 0\n",
    "uptime": b"61.25 12.00\n",
    "load": b"0.52 0.10 0.01 1/80 123\n",
    "net": _NET,
}
_STAT = (
    b"125 (a) odd (name) S 124 125 125 0 -1 4194560 165 720 17 2 80 52 9 65 20 0 1 0 1887 2314240 390 "
    b"18446744073709551615 4198400 5785993 140720688221088 0 0 0 0 4 81922 1 0 0 17 0 0 0 0 0 0 6141704 6178576 0\n"
)


def test_a_container() -> None:
    assert container_usage(_CONTAINER, 3) == Usage(1.5, 2232320, None, 3, 1024, 20, 1000, 2000)
    assert container_usage({**_CONTAINER, "memory.max": b"1048576\n"}, 3).memory_limit == 1 << 20


def test_a_guest() -> None:
    assert guest_usage(_GUEST) == GuestUsage(3.1, 61.25, 0.52, 51_200_000, 204_800_000, 1_863_680, 40_960, 1000, 2000)


def test_what_is_missing_cannot_be_told() -> None:
    assert container_usage({}, 1) == Usage(None, None, None, 1, None, None, None, None)
    assert guest_usage({}) == GuestUsage(*[None] * 9)


def _row(stat: bytes, uid: bytes = b"0", command: bytes = b"") -> dict[str, Value]:
    return {"stat": stat, "uid": uid, "command": command}


def test_processes() -> None:
    told: list[Value] = [
        _row(_STAT, b"1000", b"/bin/sh\0-c\0echo \x1b[2J\0"),
        _row(_STAT.replace(b"125 (", b"7 (")),
        _row(_STAT.replace(b") S ", b") Z ")),
        _row(b"nonsense"),
        {},
    ]
    assert process_rows(told) == [
        ProcessRow(7, 124, 0, "S", 1.32, 390 * 4096, "[a) odd (name]"),
        ProcessRow(125, 124, 1000, "S", 1.32, 390 * 4096, "/bin/sh -c echo  [2J"),
    ]
    with pytest.raises(AgentMisbehaved):
        process_rows([1])


def test_tables_that_no_kernel_made() -> None:
    chance = random.Random(1)
    for _ in range(3000):
        tables = {name: _spoiled(chance, text) for name, text in (_CONTAINER | _GUEST).items()}
        usage = container_usage(tables, 1)
        for value in (usage.memory_bytes, usage.read_bytes, usage.received_bytes, guest_usage(tables).memory_bytes):
            assert value is None or 0 <= value < 1 << 80
        process_rows([_row(_spoiled(chance, _STAT), _spoiled(chance, b"0"))])


def _spoiled(chance: random.Random, text: bytes) -> bytes:
    data = bytearray(text)
    for _ in range(chance.randrange(6)):
        place = chance.randrange(len(data))
        data[place : place + chance.randrange(3)] = chance.choice((b"", b"9" * 30, b" ", b"-", b"\n", b"\xff", b"()"))
        data = data or bytearray(b"x")
    return bytes(data)
