"""The agent in a real guest under QEMU: containers, their users, terminals and files, and the ways to lose it.

One machine serves most tests, each of which greets the agent anew. Its containers have a root in memory: busybox, two
users, and a link that leads out of it.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import signal
import subprocess
import tarfile
import tempfile
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final

import pytest
import trio

from hyperlog.errors import NotFound, Refused
from tests.support.guest import built_guest
from vmhost.agent import limits, protocol
from vmhost.agent.client import Agent, Mount, open_agent
from vmhost.agent.machine import AgentMachine
from vmhost.agent.multiplexer import table
from vmhost.agent.session import Session
from vmhost.errors import AgentLost, MachineGone, ProgramNotFound
from vmhost.machine import ExecSpec, Machine, TerminalSize
from vmhost.machines.platforms import host_arch
from vmhost.machines.qemu import QemuDriver
from vmhost.machines.qemu_argv import Platform, channel_socket, choose_model, qemu_argv
from vmhost.machines.spec import Accelerator, MachineSpec, MemoryFile
from vmhost.machines.tsc import measure_tsc_khz
from vmhost.nspawn import NspawnSpec, nspawn_argv

pytestmark = [pytest.mark.slow, pytest.mark.real("qemu", "busybox", "apt-get")]
SECONDS: Final = 300.0
"""For a boot under emulation on a machine that has much else to do."""
_APPLETS: Final = "cat echo env false head hostname id kill ls nc ps readlink sh sleep stty test touch true tty"
_IDENTITY: Final = (
    "/proc/sys/kernel/hostname",
    "/sys/class/net/eth0/address",
    "/proc/sys/kernel/random/uuid",
)
_PASSWD: Final = "root:x:0:0::/root:/bin/sh\njoe:x:1000:1000::/home/joe:/bin/sh\n"
_GROUP: Final = "root:x:0:\njoe:x:1000:\nextra:x:2000:joe\n"


@contextlib.contextmanager
def running_guest(scratch: Path) -> Iterator[Path]:
    """A machine with an agent: the socket of its line."""
    guest = built_guest("fast", scratch)
    arch, tsc = host_arch(), measure_tsc_khz()
    model = choose_model(arch, Accelerator.TCG, tsc_khz=tsc, needs_pci=False)
    spec = MachineSpec("guest", guest["kernel"], guest["initrd"], words=("host=first",), channels=(protocol.PORT_NAME,))
    argv = qemu_argv(spec, Platform(arch, Accelerator.TCG, model, tsc_khz=tsc))
    with tempfile.TemporaryDirectory() as directory, (scratch / "console").open("wb") as console:
        with subprocess.Popen(argv, cwd=directory, stdin=subprocess.DEVNULL, stdout=console) as process:
            try:
                yield Path(directory, channel_socket(protocol.PORT_NAME))
            finally:
                process.kill()


@pytest.fixture(scope="module")
def line(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with running_guest(tmp_path_factory.mktemp("guest")) as socket:
        yield socket


@contextlib.asynccontextmanager
async def agent_at(socket: Path) -> AsyncIterator[Agent]:
    with trio.fail_after(SECONDS):
        async with open_agent(socket, deadline=SECONDS, silence=SECONDS / 2) as agent:
            yield agent


async def all_of(stream: trio.abc.ReceiveStream) -> bytes:
    return b"".join([data async for data in stream])


async def said(agent: Agent, *argv: str, container: str | None = None, user: str = "root") -> bytes:
    async with await agent.exec(argv, container=container, user=user) as session:
        session.stdin.close()
        output = await all_of(session.stdout)
        assert await session.wait() == 0, await all_of(session.stderr)
        return output


def root_tar() -> bytes:
    """What a container needs."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:

        def add(name: str, kind: bytes, content: bytes = b"", link: str = "", mode: int = 0o755) -> None:
            info = tarfile.TarInfo(name)
            info.type, info.size, info.linkname, info.mode = kind, len(content), link, mode
            archive.addfile(info, io.BytesIO(content))

        for name in ("bin", "etc", "proc", "sys", "dev", "tmp", "run", "root", "usr", "var", "home", "home/joe"):
            add(name, tarfile.DIRTYPE)
        add("bin/busybox", tarfile.REGTYPE, Path("/bin/busybox").read_bytes())
        for applet in _APPLETS.split():
            add(f"bin/{applet}", tarfile.SYMTYPE, link="busybox")
        add("usr/bin", tarfile.SYMTYPE, link="../bin")
        add("etc/os-release", tarfile.REGTYPE)
        add("etc/passwd", tarfile.REGTYPE, _PASSWD.encode(), mode=0o644)
        add("etc/group", tarfile.REGTYPE, _GROUP.encode(), mode=0o644)
        add("way-out", tarfile.SYMTYPE, link="/tmp")  # the container's
    return made.getvalue()


@contextlib.asynccontextmanager
async def container(agent: Agent, *argv: str, tty: tuple[int, int] | None = None) -> AsyncIterator[Session]:
    """A container named c1 that runs argv, over a root of its own."""
    await said(agent, "sh", "-c", "umount /run/c1 2>/dev/null; true")
    await agent.mount([Mount("tmpfs", "/run/c1", "tmpfs")])
    async with await agent.extract("/run/c1") as into:
        await into.stdin.send_all(root_tar())
        into.stdin.close()
        assert await into.wait() == 0
    spec = NspawnSpec("/run/c1", argv, "c1", "inside")
    # No seccomp filter: building it takes most of a start under emulation.
    environment = {"SYSTEMD_NSPAWN_TMPFS_TMP": "0", "SYSTEMD_SECCOMP": "0", "SYSTEMD_LOG_LEVEL": "warning"}
    command = nspawn_argv(spec, interactive=tty is not None, bundle=None)
    async with await agent.exec(command, env=environment, tty=tty, leads="c1") as main:
        yield main
    await agent.unmount(["/run/c1"])


class _Unused:
    """Of the virtual machine, what these tests need no more of."""

    pid = 1

    async def pause(self) -> None:
        await trio.lowlevel.checkpoint()

    resume = pause


async def test_a_container_as_its_keeper_sees_it(line: Path) -> None:
    script = "trap 'echo told; exit 5' TERM; echo up; while :; do sleep 0.2; done"
    async with agent_at(line) as agent, container(agent, "/bin/sh", "-c", script) as main:
        assert await main.running() > 0
        assert await main.stdout.receive_some() == b"up\n"
        spec = NspawnSpec(
            "/run/c1", ("/bin/sh",), "c1", "inside", env={"FROM": "image"}, workdir="/home/joe", user="joe"
        )
        machine: Machine = AgentMachine(_Unused(), agent, spec, main)  # type: ignore[arg-type]  # only what is used
        await _programs(machine)
        await _terminals(machine)
        await _figures(machine)
        await _files(machine)
        await _connections(machine)
        machine.signal(signal.SIGTERM)
        assert await all_of(main.stdout) == b"told\n"
        assert await main.wait() == 5
        with pytest.raises(MachineGone):
            await machine.processes()
        assert not main.oom_killed


async def _programs(machine: Machine) -> None:
    script = "id; hostname; echo $FROM $MORE; readlink /proc/self/cwd; ls /run/c1; cat; exit 3"
    async with machine.open_exec(ExecSpec(("sh", "-c", script), env={"MORE": "said"})) as running:
        await running.stdin.send_all(b"in")
        await running.stdin.aclose()
        lines = (await all_of(running.stdout)).split(b"\n")
        assert lines[1:] == [b"inside", b"image said", b"/home/joe", b"in"]
        assert lines[0].startswith(b"uid=1000(joe) gid=1000(joe)")
        assert b"2000(extra)" in lines[0]
        assert running.stderr is not None
        assert b"/run/c1" in await all_of(running.stderr)
        assert await running.wait() == 3
    async with machine.open_exec(ExecSpec(("sh", "-c", "kill -9 $$"))) as running:
        assert await running.wait() == 128 + signal.SIGKILL
    with pytest.raises(ProgramNotFound):
        async with machine.open_exec(ExecSpec(("systemd-nspawn",))):
            pass
    with pytest.raises(Refused, match="www"):
        async with machine.open_exec(ExecSpec(("true",), user="www")):
            pass


async def _terminals(machine: Machine) -> None:
    script = (
        "tty; stty size; test -w $(tty) && echo mine; trap 'stty size; exit' WINCH; echo; while :; do sleep 0.1; done"
    )
    async with machine.open_exec(ExecSpec(("sh", "-c", script), terminal=TerminalSize(10, 20))) as running:
        seen = b""
        while not seen.endswith(b"\r\n\r\n"):
            seen += await running.stdout.receive_some()
        assert seen.startswith(b"/dev/pts/")
        assert seen.endswith(b"10 20\r\nmine\r\n\r\n")
        running.resize(TerminalSize(33, 44))
        assert await all_of(running.stdout) == b"33 44\r\n"


async def _figures(machine: Machine) -> None:
    usage = await machine.usage()
    assert usage.processes >= 1
    assert usage.cpu_seconds is not None
    assert usage.cpu_seconds > 0
    assert usage.memory_bytes is not None
    assert usage.memory_bytes > 100_000
    assert usage.received_bytes == 0
    rows = await machine.processes()
    assert rows[0].command.startswith("/bin/sh -c trap")
    assert rows[0].uid == 0
    assert not any("stubinit" in row.command or "luajit" in row.command for row in rows)


async def _files(machine: Machine) -> None:
    """Through a link that in the guest itself would lead elsewhere."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        info = tarfile.TarInfo("brought")
        info.size, info.uid, info.mode = 7, 1000, 0o640
        archive.addfile(info, io.BytesIO(b"content"))
    await machine.extract("/way-out", _Pieces(made.getvalue()))
    async with machine.open_archive("/tmp/brought") as stream:  # the container's
        with tarfile.open(fileobj=io.BytesIO(await all_of(stream))) as archive:
            (member,) = archive.getmembers()
            file = archive.extractfile(member)
            assert (member.name, member.uid, member.mode & 0o777) == ("brought", 1000, 0o640)
            assert file is not None
            assert file.read() == b"content"
    async with machine.open_archive("/no/such") as stream:
        with pytest.raises(NotFound, match="/no/such"):
            await all_of(stream)
    with pytest.raises(NotFound):
        await machine.extract("/no/such", _Pieces(b""))


async def _connections(machine: Machine) -> None:
    async with machine.open_exec(ExecSpec(("nc", "-l", "-p", "8080", "-e", "cat"), user="root")):
        stream = await _connected(machine, 8080)
        async with stream:
            await stream.send_all(b"through")
            assert await stream.receive_some() == b"through"
    with pytest.raises(ConnectionRefusedError):
        await machine.connect(9)
    await _many_connections(machine)


async def _many_connections(machine: Machine) -> None:
    """They leave room for programs."""
    async with machine.open_exec(ExecSpec(("nc", "-ll", "-p", "8081", "-e", "cat"), user="root")):
        streams = [await _connected(machine, 8081) for _ in range(limits.CONNECTIONS_MAX)]
        with trio.move_on_after(1):
            await machine.connect(8081)
            pytest.fail("one more did not wait")
        async with machine.open_exec(ExecSpec(("true",))) as running:
            assert await running.wait() == 0
        for _ in range(2):  # closed twice is closed once
            await streams[0].aclose()
        streams[0] = await _connected(machine, 8081)
        with trio.move_on_after(1):
            await machine.connect(8081)
            pytest.fail("one more did not wait")
        for stream in streams:
            await trio.aclose_forcefully(stream)


async def _connected(machine: Machine, port: int) -> trio.abc.Stream:
    while True:
        try:
            return await machine.connect(port)
        except ConnectionRefusedError:
            await trio.sleep(0.1)


class _Pieces(trio.abc.ReceiveStream):
    def __init__(self, data: bytes) -> None:
        self._data = data

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        await trio.lowlevel.checkpoint()
        piece, self._data = self._data[:1000], self._data[1000:]
        return piece

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()


async def test_how_a_container_ended(line: Path) -> None:
    async with agent_at(line) as agent:
        async with container(agent, "/bin/sh", "-c", "kill -9 $$") as main:
            assert await main.wait() == 128 + signal.SIGKILL
        async with container(agent, "/bin/sh", "-c", "tty; stty size; exit 9", tty=(30, 90)) as main:
            assert (await all_of(main.stdout)).endswith(b"30 90\r\n")
            assert await main.wait() == 9
        async with container(agent, "/bin/no-such") as main:
            assert await main.running() == 0
            assert await main.wait() != 0


async def test_whoever_comes_next_finds_nothing_of_the_one_before(line: Path) -> None:
    """Who left without a word, and whose programs do not listen."""
    async with agent_at(line) as agent:
        session = await agent.exec(["sh", "-c", "trap '' TERM HUP; echo up; while :; do sleep 0.1; done; : mark"])
        assert await session.stdout.receive_some() == b"up\n"
        assert any(b"mark" in command for command in await _commands(agent))
    async with agent_at(line) as agent:
        await _until_gone(agent, b"mark")


async def _commands(agent: Agent) -> list[bytes]:
    commands = [table(row)["command"] for row in await agent.process_tables()]
    return [command for command in commands if isinstance(command, bytes)]


async def _until_gone(agent: Agent, word: bytes) -> None:
    while True:
        if not any(word in command for command in await _commands(agent)):
            return
        await trio.sleep(0.2)


async def test_a_restored_guest_becomes_a_machine_of_its_own(line: Path) -> None:
    async with agent_at(line) as agent:
        before = await agent.statistics()
        assert before.memory_total is not None
        assert before.memory_total > 64 << 20
        assert await said(agent, "hostname") == b"first\n"
        await said(agent, "date", "-s", "2001-01-01")
        await agent.reseed('host=second sshkey="none"')
        assert await said(agent, "hostname") == b"second\n"
        assert not (await said(agent, "date", "+%Y")).startswith(b"2001")


async def write_and_give_back(agent: Agent, qemu: int) -> None:
    """100 MiB, in memory of the machine's own."""
    before = own_memory(qemu)
    await said(agent, "dd", "if=/dev/zero", "of=/run/much", "bs=1M", "count=100")
    assert own_memory(qemu) - before > 90 << 20
    await said(agent, "rm", "/run/much")
    with trio.fail_after(SECONDS):
        while own_memory(qemu) - before > 30 << 20:  # noqa: ASYNC110  (the balloon takes its time)
            await trio.sleep(0.2)


def own_memory(pid: int) -> int:
    """Bytes that are of no file."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("Anonymous:"))


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


async def test_two_machines_of_one_template_are_two_machines(tmp_path: Path) -> None:
    """Saved while a program wrote what nobody read; each is greeted, then told who it is, and the template stays as it
    was, whatever they write, and give back of what they wrote."""
    guest = built_guest("fast", tmp_path)
    arch, tsc = host_arch(), measure_tsc_khz()
    model = choose_model(arch, Accelerator.TCG, tsc_khz=tsc, needs_pci=False)
    driver = QemuDriver(Platform(arch, Accelerator.TCG, model, tsc_khz=tsc))
    words = ("hyper.template=1",)
    files, channels = (guest["kernel"], guest["initrd"]), (protocol.PORT_NAME,)
    spec = MachineSpec("template", *files, words=words, channels=channels, network=True)
    with tempfile.TemporaryDirectory() as directory:
        place, memory = Path(directory), Path(directory, "memory")
        shared = replace(spec, memory_file=MemoryFile(str(memory), is_copied=False))
        async with driver.running(shared, place) as machine:
            async with agent_at(place / channel_socket(protocol.PORT_NAME)) as agent:
                session = await agent.exec(["cat", "/dev/zero"])
                assert await session.stdout.receive_some()
                await machine.save(place / "state")
        saved = await trio.to_thread.run_sync(digest, memory)
        copied = replace(spec, memory_file=MemoryFile(str(memory), is_copied=True))
        told: list[bytes] = []
        for name in ("one", "two"):
            async with driver.running(copied, place, restore=place / "state") as machine:
                async with agent_at(place / channel_socket(protocol.PORT_NAME)) as agent:
                    await agent.reseed(f"host={name} mac=52:54:00:00:00:{len(told):02x}")
                    await _until_gone(agent, b"/dev/zero")
                    told.append(await said(agent, "cat", *_IDENTITY))
                    if name == "one":
                        await write_and_give_back(agent, machine.pid)
        assert saved == await trio.to_thread.run_sync(digest, memory)
        rows = [text.decode().split() for text in told]
        assert [row[0] for row in rows] == ["one", "two"]
        assert [row[1] for row in rows] == ["52:54:00:00:00:00", "52:54:00:00:00:01"]
        assert rows[0][2] != rows[1][2]


async def test_the_ways_to_lose_an_agent_are_told_apart(line: Path) -> None:
    """It dies, and the next one serves; the guest ends, and with it the machine of this module."""
    async with agent_at(line) as agent:
        session = await agent.exec(["sleep", "1000"])
        with contextlib.suppress(AgentLost):
            await said(agent, "sh", "-c", "kill -9 $(pidof luajit)")
        with pytest.raises(AgentLost, match="anew"):
            await session.wait()
    async with agent_at(line) as agent:
        assert await said(agent, "echo", "back") == b"back\n"
        with contextlib.suppress(AgentLost):
            await agent.shutdown("reboot")
        with pytest.raises(AgentLost, match="virtual machine has ended"):
            await agent.wait_lost()
