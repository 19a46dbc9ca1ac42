"""Disks by NBD: what the usual client reads, and what clients that are none can do."""

from __future__ import annotations

import hashlib
import json
import os
import struct
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import quote

import pytest
import trio

from hyperlog.errors import Unavailable
from vmhost import limits
from vmhost import nbd_protocol as nbd
from vmhost.blob_server import ReadFailure
from vmhost.nbd_server import FileBlob, ReadableBlob, serving_disks

SECONDS = 120.0
_DATA = os.urandom(3_000_001)
_GREETING = struct.pack(">QQH", 0x4E42444D41474943, 0x49484156454F5054, 3)
_INVALID, _UNKNOWN, _UNSUPPORTED, _ACK, _INFO, _SERVER = 0x80000003, 0x80000006, 0x80000001, 1, 3, 2


class Blob:
    """`_DATA`, of which the second megabyte cannot be had."""

    size = len(_DATA)

    def read_nowait(self, offset: int, size: int) -> bytes | None:
        return _DATA[offset : offset + size] if offset < 1000 else None

    async def read(self, offset: int, size: int) -> bytes:
        await trio.lowlevel.checkpoint()
        if offset < 2_000_000 and offset + size > 1_000_000:
            raise Unavailable("no peer delivered it")
        return _DATA[offset : offset + size]


class Served:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.failures: list[ReadFailure] = []

    async def connect(self) -> Client:
        return Client(await trio.open_unix_socket(self.path))


class Client:
    """As much of one as it takes to break the rules."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._held = bytearray()

    async def say(self, data: bytes) -> None:
        await self._stream.send_all(data)

    async def take(self, count: int) -> bytes:
        while len(self._held) < count:
            data = await self._stream.receive_some()
            assert data, f"it ended after {bytes(self._held)!r}"
            self._held += data
        taken = bytes(self._held[:count])
        del self._held[:count]
        return taken

    async def greet(self, flags: int = 3) -> None:
        assert await self.take(18) == _GREETING
        await self.say(struct.pack(">I", flags))

    async def ask(self, option: int, data: bytes = b"") -> None:
        await self.say(struct.pack(">QII", 0x49484156454F5054, option, len(data)) + data)

    async def answer(self) -> tuple[int, int, bytes]:
        magic, option, kind, length = struct.unpack(">QIII", await self.take(20))
        assert magic == 0x0003E889045565A9
        return option, kind, await self.take(length)

    async def go(self, name: str = "blob") -> None:
        await self.greet()
        await self.ask(7, wanted(name))
        while (await self.answer())[1] == _INFO:
            continue

    async def request(self, command: int, offset: int = 0, length: int = 0, cookie: int = 7) -> None:
        await self.say(struct.pack(">IHHQQI", 0x25609513, 0, command, cookie, offset, length))

    async def reply(self) -> tuple[int, int]:
        magic, error, cookie = struct.unpack(">IIQ", await self.take(16))
        assert magic == 0x67446698
        return error, cookie

    async def is_ended(self) -> bool:
        try:
            return not self._held and not await self._stream.receive_some()
        except trio.BrokenResourceError:
            return True

    async def aclose(self) -> None:
        await self._stream.aclose()


def wanted(name: str, *infos: int) -> bytes:
    encoded = name.encode()
    numbers = b"".join(struct.pack(">H", info) for info in infos)
    return struct.pack(">I", len(encoded)) + encoded + struct.pack(">H", len(infos)) + numbers


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    served = Served(tmp_path / "nbd.sock")
    (tmp_path / "file").write_bytes(_DATA)
    with trio.fail_after(SECONDS), (tmp_path / "file").open("rb") as file:
        exports: dict[str, ReadableBlob] = {"metadata": FileBlob(file.fileno()), "blob": Blob()}
        async with serving_disks(served.path, exports, on_read_failure=served.failures.append):
            yield served
    assert not served.path.exists()


async def test_a_client_reads_flushes_and_leaves(served: Served) -> None:
    assert served.path.stat().st_mode & 0o777 == 0o600
    client = await served.connect()
    await client.greet()
    await client.ask(3)
    assert [(await client.answer())[1:] for _ in range(3)] == [
        (_SERVER, b"\0\0\0\x08metadata"),
        (_SERVER, b"\0\0\0\x04blob"),
        (_ACK, b""),
    ]
    await client.ask(6, wanted("blob", 3))
    assert (await client.answer())[2][:10] == struct.pack(">HQ", 0, len(_DATA))
    assert (await client.answer())[2] == struct.pack(">HIII", 3, 1, 4096, nbd.READ_BYTES_MAX)
    assert (await client.answer())[1] == _ACK
    await client.ask(8)  # structured replies
    assert (await client.answer())[1] == _UNSUPPORTED
    await client.ask(7, wanted("blob"))
    while (await client.answer())[1] == _INFO:
        continue
    for cookie, offset, length in ((1, 0, 10), (2, 2_500_000, 500_001), (3, len(_DATA) - 1, 1)):
        await client.request(0, offset, length, cookie)
        assert await client.reply() == (0, cookie)
        assert await client.take(length) == _DATA[offset : offset + length]
    await client.request(3)
    assert await client.reply() == (0, 7)
    await client.request(2)
    assert await client.is_ended()
    await client.aclose()
    assert not served.failures


async def test_what_cannot_be_read_is_an_error_and_the_rest_goes_on(served: Served) -> None:
    client = await served.connect()
    await client.go()
    for command, offset, length, error in (
        (0, 1_500_000, 4096, nbd.Error.IO),
        (0, len(_DATA) - 1, 2, nbd.Error.INVALID),
        (0, 1 << 63, 4096, nbd.Error.INVALID),
        (0, 0, 0, nbd.Error.INVALID),
        (0, 0, nbd.READ_BYTES_MAX + 1, nbd.Error.INVALID),
        (0, 0, 0xFFFFFFFF, nbd.Error.INVALID),
        (4, 0, 4096, nbd.Error.INVALID),
        (999, 0, 0, nbd.Error.INVALID),
    ):
        await client.request(command, offset, length)
        assert await client.reply() == (error, 7), (command, offset, length)
    await client.request(1, 0, 100_000)
    await client.say(bytes(100_000))
    assert await client.reply() == (nbd.Error.PERM, 7)
    await client.request(0, 0, 5)
    assert await client.reply() == (0, 7)
    assert await client.take(5) == _DATA[:5]
    await client.aclose()
    assert [(failure.name, failure.offset) for failure in served.failures] == [("blob", 1_500_000)]


async def test_many_reads_at_once_are_each_answered(served: Served) -> None:
    client = await served.connect()
    await client.go("metadata")
    count = 4 * limits.NBD_TASKS
    for cookie in range(count):
        await client.request(0, cookie * 1000, 1000, cookie)
    seen = set()
    for _ in range(count):
        error, cookie = await client.reply()
        assert error == 0
        assert await client.take(1000) == _DATA[cookie * 1000 : (cookie + 1) * 1000]
        seen.add(cookie)
    assert seen == set(range(count))
    await client.aclose()


@pytest.mark.parametrize(
    "said",
    [
        struct.pack(">I", 0),
        struct.pack(">I", 0xFFFFFFFF),
        struct.pack(">IQII", 3, 1, 7, 0),
        struct.pack(">IQII", 3, 0x49484156454F5054, 7, 1 << 31),
        struct.pack(">IQII", 3, 0x49484156454F5054, 1, 4) + b"none",
        b"GET / HTTP/1.1\r\n\r\n" * 100,
    ],
)
async def test_who_speaks_something_else_is_left(served: Served, said: bytes) -> None:
    client = await served.connect()
    await client.take(18)
    await client.say(said)
    assert await client.is_ended()
    await client.aclose()


@pytest.mark.parametrize(
    "said",
    [
        bytes(28),
        struct.pack(">IHHQQI", 0x25609514, 0, 0, 1, 0, 5),
        struct.pack(">IHHQQI", 0x25609513, 0, 1, 1, 0, 0xFFFFFFFF),
    ],
)
async def test_what_is_no_request_ends_the_connection(served: Served, said: bytes) -> None:
    client = await served.connect()
    await client.go()
    await client.say(said)
    assert await client.is_ended()
    await client.aclose()


async def test_odd_options_are_answered(served: Served) -> None:
    client = await served.connect()
    await client.greet()
    for option, data, kind in (
        (7, b"", _INVALID),
        (7, b"\xff\xff\xff\xff\0\0", _INVALID),
        (6, wanted("blob") + b"more", _INVALID),
        (7, wanted("none"), _UNKNOWN),
        (7, wanted("../blob"), _UNKNOWN),
        (3, b"x", _INVALID),
        (5, b"", _UNSUPPORTED),
        (12345, b"x" * 1000, _UNSUPPORTED),
    ):
        await client.ask(option, data)
        assert (await client.answer())[1] == kind, (option, data)
    await client.ask(2)
    assert (await client.answer())[1] == _ACK
    assert await client.is_ended()
    await client.aclose()


async def test_who_asks_without_end_is_left(served: Served) -> None:
    client = await served.connect()
    await client.greet()
    for _ in range(limits.NBD_OPTIONS):
        await client.ask(3)
        while (await client.answer())[1] != _ACK:
            continue
    assert await client.is_ended()
    await client.aclose()


async def test_more_connections_than_places_are_closed_and_places_come_back(served: Served) -> None:
    clients = [await served.connect() for _ in range(limits.NBD_CONNECTIONS)]
    for client in clients:
        assert await client.take(18) == _GREETING
    late = await served.connect()
    assert await late.is_ended()
    await late.aclose()
    await clients.pop().aclose()
    while True:
        again = await served.connect()
        if not await ended_at_once(again):
            break
        await again.aclose()
        await trio.sleep(0.01)
    for client in (again, *clients):
        await client.aclose()


async def ended_at_once(client: Client) -> bool:
    try:
        return await client.take(18) != _GREETING
    except (AssertionError, trio.BrokenResourceError):
        return True


async def test_who_says_nothing_is_left_in_time(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> None:
    path = tmp_path / "nbd.sock"
    async with serving_disks(path, {"blob": Blob()}, on_read_failure=lambda _: None):
        client = await Served(path).connect()
        await client.take(18)
        await client.say(b"\0\0")  # half of something
        assert await client.is_ended()
        await client.aclose()


@pytest.mark.real("nbdinfo", "nbdcopy")
async def test_the_usual_client_reads_the_same_bytes(served: Served, tmp_path: Path) -> None:
    where = f"?socket={quote(str(served.path))}"
    told = await trio.run_process(["nbdinfo", "--json", f"nbd+unix:///metadata{where}"], capture_stdout=True)
    (export,) = json.loads(told.stdout)["exports"]
    assert (export["export-size"], export["is_read_only"]) == (len(_DATA), True)
    listed = await trio.run_process(["nbdinfo", "--list", "--json", f"nbd+unix://{where}"], capture_stdout=True)
    assert {each["export-name"] for each in json.loads(listed.stdout)["exports"]} == {"metadata", "blob"}
    copy = tmp_path / "copy"
    await trio.run_process(["nbdcopy", f"nbd+unix:///metadata{where}", str(copy)])
    assert hashlib.sha256(copy.read_bytes()).digest() == hashlib.sha256(_DATA).digest()
    command = ["nbdcopy", f"nbd+unix:///blob{where}", str(copy)]
    failed = await trio.run_process(command, check=False, capture_stderr=True)
    assert failed.returncode != 0
    assert isinstance(failed, subprocess.CompletedProcess)
    assert served.failures
