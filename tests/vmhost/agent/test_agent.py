"""The guest's program and the host's client together, on this host: what needs no virtual machine."""

from __future__ import annotations

import contextlib
import os
import random
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import trio

from hyperlog import encoding
from hyperlog.encoding import Encodable
from hyperlog.errors import HyperError, NotFound, Refused, Unavailable
from tests.vmhost.agent.support import SECONDS, all_of, guest_program, running_agent
from vmhost.agent import protocol
from vmhost.agent.client import Agent, open_agent
from vmhost.agent.multiplexer import table
from vmhost.errors import AgentLost, ProgramNotExecutable, ProgramNotFound

pytestmark = pytest.mark.real("root", "luajit")


@contextlib.contextmanager
def open_pidfd(pid: int) -> Iterator[int | None]:
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        yield None
        return
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@pytest.fixture
async def agent() -> AsyncIterator[Agent]:
    async with running_agent() as made:
        yield made


async def output_of(agent: Agent, *argv: str, **how: object) -> bytes:
    async with await agent.exec(argv, **how) as session:  # type: ignore[arg-type]  # exec's own keywords
        session.stdin.close()
        said = await all_of(session.stdout)
        assert await session.wait() == 0
        return said


async def ended(pid: int) -> None:
    """Until there is no such process."""
    with trio.fail_after(SECONDS), open_pidfd(pid) as descriptor:
        if descriptor is not None:
            await trio.lowlevel.wait_readable(descriptor)


async def test_streams_and_exit_code_are_the_programs_own(agent: Agent) -> None:
    async with await agent.exec(["sh", "-c", "cat; echo err >&2; exit 7"]) as session:
        assert session.pid > 0
        await session.stdin.send_all(b"in\0put\xff")
        await session.stdin.aclose()
        assert await all_of(session.stdout) == b"in\0put\xff"
        assert await all_of(session.stderr) == b"err\n"
        assert await session.wait() == 7


async def test_a_signal_is_told_as_shells_tell_it(agent: Agent) -> None:
    async with await agent.exec(["sh", "-c", "echo up; sleep 1000"]) as session:
        assert await session.stdout.receive_some() == b"up\n"
        session.signal(signal.SIGINT)
        session.kill()
        assert await session.wait() in (128 + signal.SIGINT, 128 + signal.SIGKILL)
        session.signal(signal.SIGINT)  # nothing happens any more


async def test_a_signal_goes_to_the_program(agent: Agent) -> None:
    script = "trap 'echo caught; exit 3' USR1; echo up; while :; do sleep 0.05; done"
    async with await agent.exec(["sh", "-c", script]) as session:
        assert await session.stdout.receive_some() == b"up\n"
        session.signal(signal.SIGUSR1)
        assert await all_of(session.stdout) == b"caught\n"
        assert await session.wait() == 3


async def test_a_terminal_has_a_size_that_changes(agent: Agent) -> None:
    script = "trap 'stty size; exit' WINCH; stty size; while :; do sleep 0.05; done"
    async with await agent.exec(["sh", "-c", script], tty=(33, 44)) as session:
        assert await session.stdout.receive_some() == b"33 44\r\n"
        for size in range(100):
            session.resize(50 + size, 60)
        assert b" 60\r\n" in await all_of(session.stdout)
        assert await session.wait() == 0


async def test_the_end_of_a_terminals_input_is_its_hanging_up(agent: Agent) -> None:
    async with await agent.exec(["cat"], tty=(24, 80)) as session:
        await session.stdin.send_all(b"echoed\n")
        assert await session.stdout.receive_some(6) == b"echoed"
        await session.stdin.aclose()
        assert await session.wait() == 128 + signal.SIGHUP


async def test_user_directory_and_environment(agent: Agent, tmp_path: Path) -> None:
    script = "id -u; id -g; pwd; echo $HOME,$USER,$TERM,$A; ulimit -c >/dev/null; cat /proc/self/oom_score_adj"
    said = await output_of(agent, "/bin/sh", "-c", script, user="nobody", workdir="/usr", env={"A": "b=c \xe4"})
    assert said.split(b"\n")[:4] == [b"65534", b"65534", b"/usr", b"/nonexistent,nobody,,b=c \xc3\xa4"]
    assert (await output_of(agent, "id", "-u", user="12345:54321")) == b"12345\n"
    name = os.fsdecode(b"odd\xff\nname")
    (tmp_path / name).write_bytes(b"content")
    assert await output_of(agent, "cat", name, workdir=str(tmp_path)) == b"content"


@pytest.mark.parametrize(
    ("how", "kind", "text"),
    [
        ({"argv": ["no-such-program"]}, ProgramNotFound, "no-such-program"),
        ({"argv": ["/no/such"]}, ProgramNotFound, "/no/such"),
        ({"argv": ["/etc/passwd"]}, ProgramNotExecutable, "Permission denied"),
        ({"argv": ["true"], "user": "no-such-user"}, Refused, "no-such-user"),
        ({"argv": ["true"], "user": "root:no-such-group"}, Refused, "no-such-group"),
        ({"argv": ["true"], "workdir": "/no/such"}, Refused, "/no/such"),
        ({"argv": ["true"], "container": "none"}, Unavailable, "does not run"),
        ({"argv": []}, Refused, "no program"),
        ({"argv": ["true", "x" * 70_000]}, Refused, "bytes"),
    ],
)
async def test_what_cannot_be_run_is_said(
    agent: Agent, how: dict[str, object], kind: type[HyperError], text: str
) -> None:
    with pytest.raises(kind, match=text):
        await agent.exec(**how)  # type: ignore[arg-type]  # exec's own keywords
    assert await output_of(agent, "echo", "goes on") == b"goes on\n"


async def test_many_sessions_share_the_line_and_none_waits_for_another(agent: Agent) -> None:
    """One whose output nobody reads, and one whose program reads no input, hold up no other."""
    size = 3 * protocol.WINDOW_BYTES
    results: list[int] = []

    async def count(number: int) -> None:
        async with await agent.exec(["sh", "-c", f"head -c {size + number} /dev/zero; exit {number}"]) as session:
            assert len(await all_of(session.stdout)) == size + number
            results.append(await session.wait())

    async with await agent.exec(["cat", "/dev/zero"]) as unread, await agent.exec(["sleep", "1000"]) as deaf:
        with trio.move_on_after(0.5):
            while True:
                await deaf.stdin.send_all(bytes(65536))
        async with trio.open_nursery() as nursery:
            for number in range(20):
                nursery.start_soon(count, number)
        assert sorted(results) == list(range(20))
        assert len(await unread.stdout.receive_some()) > 0


async def test_much_goes_through_unchanged(agent: Agent) -> None:
    data = os.urandom(1 << 20) * 8
    async with await agent.exec(["cat"]) as session, trio.open_nursery() as nursery:

        async def send() -> None:
            await session.stdin.send_all(data)
            await session.stdin.aclose()

        nursery.start_soon(send)
        assert await all_of(session.stdout) == data


async def test_input_that_nobody_reads_any_more_is_no_error_but_an_ended_program_is(agent: Agent) -> None:
    async with await agent.exec(["sh", "-c", "exec <&-; sleep 0.2"]) as session:
        await session.stdin.send_all(bytes(1 << 20))
        assert await session.wait() == 0
        with pytest.raises(trio.BrokenResourceError):
            await session.stdin.send_all(bytes(1 << 20))


async def test_what_a_program_leaves_behind_with_its_streams_is_not_waited_for(agent: Agent) -> None:
    async with await agent.exec(["sh", "-c", "sleep 1000 & echo $!; exit 4"]) as session:
        pid = int(await all_of(session.stdout))
        assert await session.wait() == 4
    os.kill(pid, signal.SIGKILL)


async def test_a_session_that_is_left_is_killed(agent: Agent) -> None:
    async with await agent.exec(["sh", "-c", "trap '' HUP TERM; echo $$; while :; do sleep 0.05; done"]) as session:
        pid = int(await session.stdout.receive_some())
    await ended(pid)


async def test_copying_in_and_out(agent: Agent, tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    (source / "a").mkdir(parents=True)
    target.mkdir()
    (source / "a" / "file").write_bytes(os.urandom(200_000))
    (source / "a" / "link").symlink_to("file")
    async with await agent.archive(str(source / "a")) as out, await agent.extract(str(target)) as into:
        out.stdin.close()
        async for data in out.stdout:
            await into.stdin.send_all(data)
        await into.stdin.aclose()
        assert (await out.wait(), await into.wait()) == (0, 0)
    assert (target / "a" / "file").read_bytes() == (source / "a" / "file").read_bytes()
    assert (target / "a" / "link").readlink() == Path("file")
    async with await agent.archive(str(tmp_path / "nothing")) as out:
        with pytest.raises(NotFound, match="nothing"):
            await out.wait()
    async with await agent.extract(str(source / "a" / "file")) as into:
        with pytest.raises(NotFound):
            await into.wait()


async def test_datagrams_keep_their_bounds(agent: Agent) -> None:
    with trio.socket.socket(type=trio.socket.SOCK_DGRAM) as server:
        await server.bind(("127.0.0.1", 0))
        async with await agent.connect_datagrams(server.getsockname()[1]) as session:
            for size in (1, 60_000, 2, 65_507):
                assert await session.stdin.send_whole(b"a" * size)
                data, sender = await server.recvfrom(65536)
                assert data == b"a" * size
                for answer in (b"", b"b" * size, b"c"):
                    await server.sendto(answer, sender)
                assert await session.stdout.receive_some() == b"b" * size
                assert await session.stdout.receive_some() == b"c"
            assert not await session.stdin.send_whole(bytes(protocol.CHUNK_BYTES + 1))


async def test_datagrams_that_nobody_takes_are_lost(agent: Agent) -> None:
    with trio.socket.socket(type=trio.socket.SOCK_DGRAM) as server:
        await server.bind(("127.0.0.1", 0))
        port = server.getsockname()[1]
    async with await agent.connect_datagrams(port) as session:
        for _ in range(20):
            await session.stdin.send_whole(b"anybody there?")
        await agent.ping()
        with trio.socket.socket(type=trio.socket.SOCK_DGRAM) as server:
            await server.bind(("127.0.0.1", port))
            async with trio.open_nursery() as nursery:

                async def ask() -> None:
                    while True:
                        await session.stdin.send_whole(b"now?")
                        await trio.sleep(0.05)

                nursery.start_soon(ask)
                with trio.fail_after(SECONDS):
                    assert await server.recv(100) == b"now?"
                nursery.cancel_scope.cancel()


async def test_the_kernels_tables(agent: Agent) -> None:
    tables = await agent.usage_tables()
    assert {"stat", "meminfo", "net", "load", "uptime"} <= tables.keys()
    rows = [table(row) for row in await agent.process_tables()]
    assert any(b"luajit" in command for row in rows if isinstance(command := row["command"], bytes))


async def test_an_operation_that_there_is_not(agent: Agent) -> None:
    with pytest.raises(Refused, match="knows no operation"):
        await agent.call({"op": "fly"})


async def test_a_killed_agent_is_lost_for_all_who_wait() -> None:
    async with guest_program() as (stream, process), open_agent(stream, deadline=SECONDS, silence=SECONDS) as agent:
        session = await agent.exec(["sleep", "1000"])
        lost = 0

        async def expect() -> None:
            nonlocal lost
            with pytest.raises(AgentLost, match="ended"):
                await session.wait()
            lost += 1

        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(expect)
            await trio.testing.wait_all_tasks_blocked()
            process.kill()
        assert lost == 3
        for late in (agent.ping, lambda: agent.exec(["true"]), session.stdout.receive_some, agent.wait_lost):
            with pytest.raises(AgentLost):
                await late()
        os.kill(session.pid, signal.SIGKILL)


async def test_an_agent_that_hangs_is_noticed() -> None:
    async with guest_program() as (stream, process), open_agent(stream, deadline=SECONDS, silence=2) as agent:
        os.kill(process.pid, signal.SIGSTOP)
        try:
            with agent.quiet():
                await trio.sleep(3)  # a machine that is paused is not lost
            with pytest.raises(AgentLost, match="said nothing"), trio.fail_after(SECONDS):
                await agent.ping()
        finally:
            os.kill(process.pid, signal.SIGKILL)


async def test_a_new_client_ends_what_the_old_one_began_and_is_told_nothing_of_it() -> None:
    """Also when the old one stopped in the middle of a frame."""
    async with guest_program() as (stream, _):
        kept = _Kept(stream)
        async with open_agent(kept, deadline=SECONDS, silence=SECONDS) as agent:
            noisy = await agent.exec(["sh", "-c", "echo $$; cat /dev/zero"])
            pid = int((await noisy.stdout.receive_some()).split(b"\n")[0])
            await (await agent.exec(["cat"])).stdin.send_all(b"before")
        await stream.send_all(protocol.encode(protocol.Kind.DATA, 2, b"x" * 5000)[:700])
        async with open_agent(kept, deadline=SECONDS, silence=SECONDS) as agent:
            assert await output_of(agent, "echo", "new") == b"new\n"
            await ended(pid)


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_no_bytes_from_a_host_end_the_guests_program(seed: int) -> None:
    """Noise, and frames that are in order but mean nothing."""
    chance = random.Random(seed)
    async with guest_program() as (stream, process):
        kept = _Kept(stream)
        async with open_agent(kept, deadline=SECONDS, silence=SECONDS):
            pass
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_drain, stream)
            for _ in range(200):
                await stream.send_all(_noise(chance))
            nursery.cancel_scope.cancel()
        async with open_agent(kept, deadline=SECONDS, silence=SECONDS) as agent:
            assert await output_of(agent, "echo", "well") == b"well\n"
            resident = await output_of(agent, "sh", "-c", f"grep VmRSS /proc/{process.pid}/status")
            assert int(resident.split()[1]) < 64 << 10  # KiB


async def _drain(stream: trio.SocketStream) -> None:
    while await stream.receive_some():
        pass


def _noise(chance: random.Random) -> bytes:
    kinds = [kind for kind in protocol.Kind if kind not in (protocol.Kind.HELLO, protocol.Kind.WELCOME)]
    request: dict[str, Encodable] = {
        "op": chance.choice(("exec", "fly", "mount", "connect", "archive", "extract", "usage", b"\xff", 7)),
        "argv": chance.choice(([b"true"], [], b"true", 3, [[b"x"]], [{"a": 1}])),
        "env": chance.choice(([b"A=1"], [b"=", b"no"], 1, [])),
        "port": chance.choice((1, -1, 70_000, b"x")),
        "rows": chance.choice((24, -1, 70_000, b"x")),
        "leads": chance.choice((b"name", 1)),
    }
    body = chance.choice((encoding.encode(request), encoding.encode(request), chance.randbytes(chance.randrange(100))))
    frame = protocol.encode(chance.choice(kinds), chance.randrange(5), body, channel=chance.randrange(4))
    return frame if chance.random() < 0.9 else chance.randbytes(chance.randrange(2000))


class _Kept(trio.abc.Stream):
    """A line that outlives its clients, as QEMU's does."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        return bytes(await self._stream.receive_some(max_bytes))

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()
