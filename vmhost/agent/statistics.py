"""What a guest's kernel says about use, read out of its tables; the guest may have made all of it up. Pure.

Tables are as /proc and the control groups have them (proc(5), cgroup-v2.rst). A row that is not what it should be is
left out where others remain, and a table that is missing or makes no sense is one that cannot be told.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from hyperlog.encoding import Value
from vmhost.agent.multiplexer import integer, table, words
from vmhost.machine import ProcessRow, Usage

_TICKS: Final = 100  # USER_HZ, in every kernel of Debian
_PAGE: Final = 4096  # of amd64, and of Debian's arm64 kernel
_NUMBER_MAX: Final = 1 << 63
_STATES: Final = frozenset("RSDTtIPKW")  # Z and X are processes no longer
_STAT: Final = re.compile(rb"(\d{1,9}) \((.*)\) ([A-Za-z]) (\d{1,9})((?: -?\d{1,20}){30,60})\s*", re.DOTALL)


@dataclass(frozen=True, slots=True)
class GuestUsage:
    """Of a whole guest. None: cannot be told."""

    cpu_seconds: float | None
    uptime_seconds: float | None
    load: float | None
    """Over the last minute."""
    memory_bytes: int | None
    """In use: neither free nor easily freed."""
    memory_total: int | None
    read_bytes: int | None
    written_bytes: int | None
    received_bytes: int | None
    sent_bytes: int | None


def container_usage(tables: Mapping[str, Value], processes: int) -> Usage:
    """Of a container, which has so many processes."""
    cpu = _named(tables, "cpu.stat").get(b"usage_usec")
    rows = [dict(_pairs(line)) for line in _lines(tables, "io.stat")]
    received, sent = _network(tables)
    return Usage(
        cpu_seconds=None if cpu is None else cpu / 1e6,
        memory_bytes=_alone(tables, "memory.current"),
        memory_limit=_alone(tables, "memory.max"),
        processes=processes,
        read_bytes=sum(row.get(b"rbytes", 0) for row in rows) if "io.stat" in tables else None,
        written_bytes=sum(row.get(b"wbytes", 0) for row in rows) if "io.stat" in tables else None,
        received_bytes=received,
        sent_bytes=sent,
    )


def guest_usage(tables: Mapping[str, Value]) -> GuestUsage:
    """Of the guest itself."""
    first = next(_lines(tables, "stat"), b"").split()
    ticks = [_number(text) or 0 for text in first[1:9]]  # user to steal; 4 and 5 are idle and waiting
    memory = _named(tables, "meminfo")
    total, available = memory.get(b"MemTotal:"), memory.get(b"MemAvailable:")
    disks = [row for line in _lines(tables, "diskstats") if len(row := line.split()) >= 14]
    sectors = [(_number(row[5]) or 0, _number(row[9]) or 0) for row in disks]
    received, sent = _network(tables)
    return GuestUsage(
        cpu_seconds=(sum(ticks) - sum(ticks[3:5])) / _TICKS if first[:1] == [b"cpu"] else None,
        uptime_seconds=_decimal(tables, "uptime"),
        load=_decimal(tables, "load"),
        memory_bytes=(total - min(available, total)) * 1024 if total is not None and available is not None else None,
        memory_total=total * 1024 if total is not None else None,
        read_bytes=512 * sum(read for read, _ in sectors) if "diskstats" in tables else None,
        written_bytes=512 * sum(written for _, written in sectors) if "diskstats" in tables else None,
        received_bytes=received,
        sent_bytes=sent,
    )


def process_rows(rows: Sequence[Value]) -> list[ProcessRow]:
    """By process id. Raises AgentMisbehaved for what is no list of maps."""
    found = [row for value in rows if (row := _process(table(value))) is not None]
    return sorted(found, key=lambda row: row.pid)


def _process(row: Mapping[str, Value]) -> ProcessRow | None:
    stat, command = row.get("stat"), row.get("command")
    match = _STAT.fullmatch(stat) if isinstance(stat, bytes) else None
    if match is None or match[3].decode() not in _STATES:
        return None
    fields = match[5].split()
    line = words(command.rstrip(b"\0").replace(b"\0", b" ")) if isinstance(command, bytes) else ""
    return ProcessRow(
        pid=int(match[1]),
        parent=int(match[4]),
        uid=_number(uid) or 0 if isinstance(uid := row.get("uid"), bytes) else integer(row, "uid", 2**32),
        state=match[3].decode(),
        cpu_seconds=((_number(fields[9]) or 0) + (_number(fields[10]) or 0)) / _TICKS,
        memory_bytes=(_number(fields[19]) or 0) * _PAGE,
        command=line or f"[{words(match[2])}]",
    )


def _lines(tables: Mapping[str, Value], name: str) -> Iterator[bytes]:
    text = tables.get(name)
    yield from text.splitlines() if isinstance(text, bytes) else ()


def _number(text: bytes) -> int | None:
    value = int(text) if text.isdigit() and len(text) <= 20 else None
    return value if value is not None and value < _NUMBER_MAX else None


def _alone(tables: Mapping[str, Value], name: str) -> int | None:
    """Of a file with one number; None for "max"."""
    return _number(next(_lines(tables, name), b""))


def _decimal(tables: Mapping[str, Value], name: str) -> float | None:
    match = re.match(rb"\d{1,12}(\.\d{1,6})?(?= |$)", next(_lines(tables, name), b""))
    return float(match[0]) if match else None


def _named(tables: Mapping[str, Value], name: str) -> dict[bytes, int]:
    """Of lines that are a name and a number."""
    rows = [line.split() for line in _lines(tables, name)]
    return {row[0]: value for row in rows if len(row) >= 2 and (value := _number(row[1])) is not None}


def _pairs(line: bytes) -> Iterator[tuple[bytes, int]]:
    for word in line.split():
        key, _, text = word.partition(b"=")
        value = _number(text)
        if value is not None:
            yield key, value


def _network(tables: Mapping[str, Value]) -> tuple[int | None, int | None]:
    """Received and sent over all interfaces but the loopback."""
    rows = [line.replace(b":", b" ").split() for line in _lines(tables, "net") if b":" in line]
    rows = [row for row in rows if len(row) >= 10 and row[0] != b"lo"]
    if "net" not in tables:
        return None, None
    return sum(_number(row[1]) or 0 for row in rows), sum(_number(row[9]) or 0 for row in rows)
