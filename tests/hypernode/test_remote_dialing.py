"""How a remote store is named, and what its token protects."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import trio
import trio.testing

from hyperlog.errors import HyperError, NotFound, Refused
from hypernode.errors import RemoteLost, RemoteRefused
from hypernode.remote.dialing import parse_remote, ssh_argv
from hypernode.remote.limits import HANDSHAKE_SECONDS
from hypernode.remote.noise import NoiseStream, secure
from hypernode.remote.token import ENVIRONMENT, find_token, make_token

TOKEN = "0123456789abcdef" * 2


@pytest.mark.parametrize(
    "text",
    [
        "", "host", "ssh://", "ssh://-oProxyCommand=x", "ssh://-u@host", "ssh://a b", "ssh://host:99x", "ssh://u@-h",
        "tcp://host", "tcp://:7070", "tcp://a b:1", "tcp://host:65536", "ssh://host:70000",
        "stdio:", "stdio:'", "http://host:1", "file:///x",
    ],
)  # fmt: skip
def test_what_names_no_store_is_refused(text: str) -> None:
    with pytest.raises(Refused):
        parse_remote(text, TOKEN)


def test_what_names_one() -> None:
    for text in ("ssh://host", "ssh://me@host:22/srv/home", "ssh://[::1]:22", "tcp://host:1", "tcp://[::1]:7070/"):
        parse_remote(text, TOKEN)
    with pytest.raises(Refused, match="needs a token"):
        parse_remote("tcp://host:1", None)
    parse_remote("stdio:ssh -J gate 'build host' hypernode", None)
    argv = ssh_argv("me", "host", "22", "/srv/a b; rm -rf c")
    assert argv[-3:] == ["--", "host", "hypernode --home '/srv/a b; rm -rf c' serve-mounts --stdio"]
    assert "BatchMode=yes" in argv


def test_a_token_comes_from_a_file_of_one_s_own_or_the_environment(tmp_path: Path) -> None:
    file = tmp_path / "token"
    made = make_token(file)
    assert file.stat().st_mode & 0o777 == 0o600
    assert find_token({}, file) == made
    assert find_token({ENVIRONMENT: f" {TOKEN}\n"}, None) == TOKEN
    assert find_token({}, None) is None
    with pytest.raises(Refused):
        make_token(file)
    file.chmod(0o640)
    with pytest.raises(Refused, match="read by others"):
        find_token({}, file)
    with pytest.raises(NotFound):
        find_token({}, tmp_path / "none")
    os.mkfifo(tmp_path / "pipe", 0o600)
    with pytest.raises(Refused):
        find_token({}, tmp_path / "pipe")
    for short in ("", "secret", "x" * 21, "x" * 2000, "\x1b" * 30):
        with pytest.raises(Refused, match="characters"):
            find_token({ENVIRONMENT: short}, None)


async def _shake(theirs: str = TOKEN) -> tuple[list[NoiseStream], list[HyperError], list[trio.abc.Stream]]:
    """Both ends of a handshake, and the plain streams below, in one order."""
    wire = [*trio.testing.memory_stream_pair()]
    streams: dict[bool, NoiseStream] = {}
    errors: list[HyperError] = []

    async def end(stream: trio.abc.Stream, token: str, initiator: bool) -> None:
        try:
            streams[initiator] = await secure(stream, token, initiator=initiator)
        except HyperError as error:
            errors.append(error)
            await stream.aclose()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(end, wire[0], TOKEN, True)
        nursery.start_soon(end, wire[1], theirs, False)
    return [streams[each] for each in (True, False) if each in streams], errors, [*wire]


async def test_what_is_sent_arrives(autojump_clock: trio.abc.Clock) -> None:
    (client, store), errors, _ = await _shake()
    assert not errors
    sent, got = os.urandom(200_000), b""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.send_all, sent)
        while len(got) < len(sent):
            got += await store.receive_some()
    assert got == sent
    await client.aclose()
    assert await store.receive_some() == b""


async def test_who_does_not_know_the_token_learns_nothing(autojump_clock: trio.abc.Clock) -> None:
    streams, errors, _ = await _shake("another token, also long enough")
    assert not streams
    assert len(errors) == 2
    assert all(isinstance(error, RemoteRefused) for error in errors)


async def test_noise_without_a_handshake(autojump_clock: trio.abc.Clock) -> None:
    for sent in (b"", b"GET / HTTP/1.1\r\n\r\n", b"\xff\xff", b"\0\0", b"\0\1x", b"\0\x30" + bytes(48)):
        left, right = trio.testing.memory_stream_pair()
        started = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(left.send_all, sent)
            with pytest.raises((RemoteRefused, RemoteLost)):
                await secure(right, TOKEN, initiator=False)
        assert trio.current_time() - started <= HANDSHAKE_SECONDS


async def test_it_is_encrypted_and_a_changed_byte_ends_it() -> None:
    for place in range(12):
        (client, store), _, wire = await _shake()
        await client.send_all(b"hello hello hello")
        data = bytearray(await wire[1].receive_some())
        assert b"hello" not in data
        data[2 + place] ^= 1
        await wire[0].send_all(data)
        with pytest.raises(trio.BrokenResourceError):
            await store.receive_some()
