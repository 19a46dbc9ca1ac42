"""Machines that stay: one directory each, with what is known of it and the process that keeps it.

    hostname            its name, which it also gets as its host name
    key, key.pub        the ssh key that its root takes, made for it
    known_hosts         its own key, as ssh saw it first since it booted
    machine.json        what it was started as
    running.json        who keeps it, while somebody does
    end.json            how it last ended
    console.log, .old   its serial console, within bounds
    lock, booting       held while it runs; while it is being booted

Whether it runs is what the lock says, not a number in a file that may be another process's by now.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import trio

from hyperlog.errors import Refused
from vmhost.errors import HostUnfit
from vmhost.guest import limits
from vmhost.guest.cache import Guest
from vmhost.guest.keeper import END, PLAN, RUNNING, machine_spec, write_json
from vmhost.guest.words import guest_words
from vmhost.machines.console_log import CONSOLE_LOG, printable_lines
from vmhost.machines.errors import MachineBusy, MachineFailed, MachineHangs
from vmhost.machines.spec import PortForward
from vmhost.process import own_module

_NAME: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?")
_ADDRESS: Final = "127.0.0.1"
_ADDRESS_LINE: Final = re.compile(
    r"^\d+: (?P<device>[\w.-]{1,15})\s+inet (?P<address>[\d./]{7,18}) ", re.ASCII | re.MULTILINE
)


@dataclass(frozen=True)
class Wish:
    """How a machine is to be started."""

    guest: Guest
    cpus: int
    memory_mib: int
    accelerator: str  # auto, kvm, tcg
    words: tuple[str, ...] = ()  # more for the kernel's command line
    ports: tuple[PortForward, ...] = ()  # besides that of its ssh server


@dataclass(frozen=True)
class Status:
    """What is known of a machine."""

    name: str
    running: bool
    pid: int | None
    accelerator: str | None
    port: int | None  # of this host's loopback: its ssh server
    ports: tuple[str, ...]  # others of this host that lead into it: ADDRESS:HOST:GUEST/PROTOCOL
    profile: str | None
    memory_mib: int | None
    since: float | None  # when it was started, in seconds of the epoch
    ended: str | None  # how it last ended


class StandingMachine:
    """The machine `name` below `base`; nothing is made before `boot`."""

    def __init__(self, base: Path, name: str) -> None:
        """Raises `Refused` on a name that is no host name."""
        if not _NAME.fullmatch(name):
            raise Refused(f"{name!r} is no name for a machine", hint="letters, digits and hyphens, at most 63")
        self.name = name
        self.directory = base / name

    def is_running(self) -> bool:
        try:
            descriptor = os.open(self.directory / "lock", os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        else:
            return False
        finally:
            os.close(descriptor)

    def status(self) -> Status:
        running = self.is_running()
        keeper = self._read(RUNNING) if running else {}
        plan, end = self._read(PLAN), self._read(END)
        return Status(
            name=self.name,
            running=running,
            pid=keeper.get("pid"),
            accelerator=keeper.get("accelerator"),
            port=plan.get("port") if running else None,
            ports=tuple(str(PortForward(**port)) for port in plan.get("ports", ())) if running else (),
            profile=plan.get("profile"),
            memory_mib=plan.get("memory_mib"),
            since=plan.get("since") if running else None,
            # Whoever keeps it says how it ended, and takes its own file away.
            ended=None if running else end.get("reason") or ("its keeper was killed" if self._read(RUNNING) else None),
        )

    def refuse_running(self) -> None:
        """Raises `MachineBusy` while it runs."""
        if self.is_running():
            raise MachineBusy(f"the machine {self.name} runs already", hint="`hypernode guest status` tells about it")

    async def boot(self, wish: Wish, seconds: float) -> Status:
        """Start it and wait until its ssh server answers; what does not come up so is ended again.

        Raises `MachineBusy`, `MachineFailed` with what the console last said, `HostUnfit`, `Refused`.
        """
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        with self._booting():
            self.refuse_running()
            await trio.to_thread.run_sync(self._prepare, wish)
            return await self._start(seconds)

    @contextlib.contextmanager
    def _booting(self) -> Iterator[None]:
        """One at a time: the keeper takes the machine's lock only when it is about to start QEMU."""
        with (self.directory / "booting").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                hint = "`hypernode guest status` tells when it runs"
                raise MachineBusy(f"the machine {self.name} is being booted by somebody else", hint=hint) from None
            yield

    async def _start(self, seconds: float) -> Status:
        keeper = self._start_keeper()
        try:
            with trio.move_on_after(seconds):
                await self._until_online(keeper)
                return self.status()
            raise MachineFailed(
                f"the machine {self.name} did not come up within {seconds:g} s", hint=self._last_words()
            )
        except BaseException:
            keeper.terminate()
            with trio.CancelScope(shield=True):
                await self._until_ended(limits.KEEPER_SECONDS)
                if keeper.poll() is None:
                    keeper.kill()
                await trio.to_thread.run_sync(keeper.wait)
            raise

    def _prepare(self, wish: Wish) -> None:
        key = self.directory / "key"
        if not key.exists():
            if shutil.which("ssh-keygen") is None:
                raise HostUnfit("ssh-keygen is not installed", hint="apt install openssh-client")
            command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", f"hypernode@{self.name}", "-f", str(key)]
            subprocess.run(command, check=True, stdin=subprocess.DEVNULL, capture_output=True)
        words = [*guest_words(self.name, key.with_suffix(".pub").read_text()), *wish.words]
        for name in ("known_hosts", END, RUNNING):
            (self.directory / name).unlink(missing_ok=True)
        (self.directory / "hostname").write_text(f"{self.name}\n")
        plan = {
            "hostname": self.name,
            "arch": wish.guest.info.arch,
            "profile": wish.guest.info.profile,
            "kernel": str(wish.guest.kernel),
            "initrd": str(wish.guest.initrd),
            "words": words,
            "cpus": wish.cpus,
            "memory_mib": wish.memory_mib,
            "accelerator": wish.accelerator,
            "port": _free_port(),
            "ports": [asdict(port) for port in wish.ports],
            "kvm": str(self.directory.parent.parent / "kvm.json"),
            "since": time.time(),
        }
        machine_spec(plan)  # refuses odd wishes here, before anything runs
        write_json(self.directory / PLAN, plan)

    def _start_keeper(self) -> subprocess.Popen[bytes]:
        argv, environment = own_module("vmhost.guest.keeper", str(self.directory))
        with (self.directory / "keeper.log").open("wb") as log:
            return subprocess.Popen(
                argv,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                cwd="/",
            )

    async def _until_online(self, keeper: subprocess.Popen[bytes]) -> None:
        port = self._read(PLAN)["port"]
        while True:
            if keeper.poll() is not None:
                end = self._read(END)
                reason = end.get("reason", "its keeper ended; see keeper.log in its directory")
                raise MachineFailed(f"the machine {self.name} ended: {reason}", hint=end.get("last_words"))
            if await _speaks_ssh(port):
                return
            await trio.sleep(limits.ONLINE_POLL_SECONDS)

    async def _until_ended(self, seconds: float) -> bool:
        with trio.move_on_after(seconds):
            while self.is_running():  # noqa: ASYNC110  (a lock tells nobody that it was let go)
                await trio.sleep(limits.ENDED_POLL_SECONDS)
            return True
        return False

    async def halt(self, seconds: float) -> None:
        """Ask the guest to turn itself off, and wait. Raises `MachineFailed` if it does not run, `MachineHangs`."""
        # By its path: busybox's shell would take its own applet, which means nothing to systemd.
        command = self.ssh_command(["/sbin/poweroff"])
        with trio.move_on_after(seconds):
            await trio.run_process(command, check=False, capture_stdout=True, capture_stderr=True, stdin=b"")
            if await self._until_ended(seconds):
                return
        hint = "`hypernode guest kill` ends it"
        raise MachineHangs(f"the machine {self.name} did not turn itself off within {seconds:g} s", hint=hint)

    async def kill(self) -> bool:
        """End it at once; whether it ran."""
        if not self.is_running():
            return False
        for number in (signal.SIGTERM, signal.SIGKILL):
            pid = self._read(RUNNING).get("pid")
            if pid is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)
            if await self._until_ended(limits.KEEPER_SECONDS):
                (self.directory / RUNNING).unlink(missing_ok=True)
                return True
        raise MachineHangs(f"the machine {self.name} could not be ended", hint=f"its directory is {self.directory}")

    def forget(self) -> None:
        """Remove its directory, with its key and logs. Raises `MachineBusy` while it runs."""
        if self.is_running():
            raise MachineBusy(f"the machine {self.name} runs", hint="`hypernode guest kill` ends it")
        shutil.rmtree(self.directory, ignore_errors=True)

    async def addresses(self) -> list[tuple[str, str]]:
        """Its network devices and their IPv4 addresses with prefix, as it says itself; behind a NAT of QEMU's.

        Raises `MachineFailed` if it does not run or does not say, `HostUnfit`.
        """
        command = self.ssh_command(["ip", "-4", "-o", "address", "show", "scope", "global"])
        with trio.move_on_after(limits.SSH_CONNECT_SECONDS):
            done = await trio.run_process(command, check=False, capture_stdout=True, capture_stderr=True, stdin=b"")
            if done.returncode == 0:
                text = done.stdout.decode("ascii", "replace")
                return [(match["device"], match["address"]) for match in _ADDRESS_LINE.finditer(text)]
        raise MachineFailed(f"the machine {self.name} does not say its addresses", hint=self._last_words())

    def ssh_command(self, command: list[str]) -> list[str]:
        """The ssh command line that runs this there, or gives a shell. Raises `MachineFailed` if it does not run."""
        if not self.is_running():
            raise MachineFailed(f"the machine {self.name} does not run", hint="`hypernode guest boot` starts it")
        if shutil.which("ssh") is None:
            raise HostUnfit("ssh is not installed", hint="apt install openssh-client")
        options = {
            "IdentitiesOnly": "yes",
            "UserKnownHostsFile": str(self.directory / "known_hosts"),
            "StrictHostKeyChecking": "accept-new",
            "LogLevel": "ERROR",
            "ConnectTimeout": str(limits.SSH_CONNECT_SECONDS),
        }
        argv = ["ssh", "-F", "none", "-i", str(self.directory / "key"), "-p", str(self._read(PLAN)["port"])]
        for name, value in options.items():
            argv += ["-o", f"{name}={value}"]
        return [*argv, f"root@{_ADDRESS}", *(["--", shlex.join(command)] if command else [])]

    def _last_words(self) -> str:
        try:
            tail = (self.directory / CONSOLE_LOG).read_bytes()[-limits.LAST_WORDS_BYTES :]
        except FileNotFoundError:
            tail = b""
        lines = printable_lines(tail)[-limits.LAST_WORDS_LINES :]
        return "the console last said: " + " / ".join(lines) if lines else "its console said nothing"

    def _read(self, name: str) -> dict[str, Any]:
        try:
            value = json.loads((self.directory / name).read_text())
        except (OSError, ValueError):
            return {}
        return value if isinstance(value, dict) else {}


def standing_machines(base: Path) -> Iterator[StandingMachine]:
    """All that have a directory, by name."""
    if base.is_dir():
        for path in sorted(base.iterdir()):
            if path.is_dir() and _NAME.fullmatch(path.name):
                yield StandingMachine(base, path.name)


def _free_port() -> int:
    """A port that nobody has at this moment; QEMU says so if somebody takes it before."""
    with socket.socket() as probe:
        probe.bind((_ADDRESS, 0))
        port: int = probe.getsockname()[1]
        return port


async def _speaks_ssh(port: int) -> bool:
    """Whether an ssh server answers: QEMU itself takes connections before anybody listens in the guest."""
    with trio.move_on_after(limits.BANNER_SECONDS):
        try:
            async with await trio.open_tcp_stream(_ADDRESS, port) as stream:
                return (await stream.receive_some(64)).startswith(b"SSH-")
        except (OSError, trio.BrokenResourceError):
            return False
    return False
