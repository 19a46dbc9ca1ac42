"""Running a container in the foreground: its streams, its terminal, its signals and its exit code are ours.

With a terminal on both ends nspawn gets a pseudo terminal of ours, and the keys go through raw, ^C included (so is
nspawn's own escape: ^] three times within a second kills the container). Otherwise stdin, stdout and stderr are
pipes: nothing inside gets hold of a file, socket or terminal of the host. Output is relayed with back-pressure.
When our own stdout breaks (`| head`), the program sees a broken pipe, as it would without us.

Signals INT TERM HUP QUIT USR1 USR2 go to the program itself, not to nspawn; those that end a program power a system
off. Before the program runs they stop nspawn. The third INT or TERM kills the container.

What comes out of stderr before the program runs is nspawn's own: it is held back, and is the error's message if
nspawn fails. Where stdout and stderr are one file, one pipe serves both, so that their order is kept.
"""

from __future__ import annotations

import logging
import os
import resource
import signal
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import replace
from functools import partial

import trio

from vmhost import limits
from vmhost.errors import ContainerFailed, OutputFailed
from vmhost.exit_watch import ExitWatch
from vmhost.idmap import UserRange, mappable
from vmhost.machine import STOPPING_SIGNALS, Machine, TerminalSize, forwarded_signals
from vmhost.mount_syscalls import (
    MS_BIND,
    MS_NODEV,
    MS_NOSUID,
    in_mount_thread,
    mount,
    read_in_mount_thread,
    read_mounts,
    unmount_patiently,
)
from vmhost.network import RESOLV_CONF, networked
from vmhost.nspawn import (
    Bind,
    NspawnSpec,
    bundle_config,
    needs_tmpfs,
    nspawn_argv,
    propagation_directory,
    with_identity,
)
from vmhost.nspawn_machine import NspawnMachine
from vmhost.payload import SYSTEM_CODES, ContainerProcess, LeaderSocket, open_leader, shell_code, wait_program
from vmhost.process import ChildProcess
from vmhost.rootfs import find_init, find_program, make_mount_point, make_workdir, names_in_run, prepare_root, read_user
from vmhost.standby import Standby, standing_by
from vmhost.streams import Source, relay
from vmhost.users import User, outside

_log = logging.getLogger(__name__)


def _nobody_asks(_machine: Machine) -> None:
    """The `on_started` of callers who want nothing of the container but its end."""


async def run_container(
    spec: NspawnSpec,
    *,
    stdin: int,
    stdout: int,
    stderr: int,
    tty: bool,
    on_first_output: Callable[[], None],
    on_started: Callable[[Machine], None] = _nobody_asks,
) -> int:
    """Run it to its end; the program's exit code, or 128 + N if signal N ended it.

    `tty`: `stdin` and `stdout` are terminals (see `terminal.is_terminal`) and the program is to get one. The
    descriptors remain the caller's. Must run on the main thread, which is where signals arrive. Cancelled, it
    stops the container. Raises ProgramNotFound, ProgramNotExecutable, RootUnusable, ContainerFailed, HostUnfit;
    OSError when our own stdout or stderr fails otherwise than by breaking, such as on a full disk.
    """
    standing = standing_by(spec.machine, spec.limits, stdin=stdin, stdout=stdout, stderr=stderr, tty=tty)
    async with standing as standby:
        return await run_standby(standby, spec, on_first_output=on_first_output, on_started=on_started)


async def run_standby(
    standby: Standby,
    spec: NspawnSpec,
    *,
    on_first_output: Callable[[], None],
    on_started: Callable[[Machine], None] = _nobody_asks,
) -> int:
    """The same by what stands by for it, which was made with its machine's name and limits."""
    user, in_run = await read_in_mount_thread(partial(_check_root, spec))
    if spec.users is not None and spec.binds:
        spec = await in_mount_thread(partial(_with_mapped_binds, spec, spec.users))
    async with _with_run(spec, in_run) as with_run, _propagation_tmpfs(spec), networked(with_run) as seeing:
        with ExitStack() as stack:
            stack.enter_context(standby.streams.begun(outside(user, spec.users)))
            bundle = None
            if not user.is_root:
                seeing = with_identity(seeing, user)
            if seeing.env or not user.is_root:
                bundle = stack.enter_context(_bundle(seeing, user))
            try:
                return await _Session(standby, on_first_output, on_started).run(seeing, bundle)
            finally:
                with trio.CancelScope(shield=True):
                    await standby.end()


def _with_mapped_binds(spec: NspawnSpec, users: UserRange) -> NspawnSpec:
    """What is bound in belongs to the same users there as here, where its file system can show that."""
    can = mappable(users, [bind.source for bind in spec.binds])
    return replace(spec, binds=tuple(replace(bind, mapped=bind.source in can) for bind in spec.binds))


def _check_root(spec: NspawnSpec) -> tuple[User, list[str]]:
    prepare_root(spec.root, spec.users)
    make_workdir(spec.root, spec.workdir, spec.users)
    if spec.read_only:  # nspawn could not make them any more
        for bind in spec.binds:
            make_mount_point(spec.root, bind.target, is_directory=os.path.isdir(bind.source))
        make_mount_point(spec.root, RESOLV_CONF, is_directory=False)
    if spec.is_system:
        find_init(spec.root)
    else:
        find_program(spec.root, spec.argv[0], search=spec.search_path, workdir=spec.workdir)
    return read_user(spec.root, spec.user), names_in_run(spec.root)


@asynccontextmanager
async def _with_run(spec: NspawnSpec, names: list[str]) -> AsyncIterator[NspawnSpec]:
    """The spec with what the image has in /run bound over nspawn's tmpfs there.

    From a second mount of that directory: in nspawn's own view the first lies under the tmpfs by then.
    """
    if not names:
        yield spec
        return
    directory = f"{os.path.dirname(spec.root)}/image-run"
    await in_mount_thread(partial(_bind_directory, f"{spec.root}/run", directory))
    try:
        yield replace(spec, binds=(*(Bind(f"{directory}/{name}", f"/run/{name}") for name in names), *spec.binds))
    finally:
        with trio.move_on_after(limits.CLOSE_SECONDS, shield=True):
            await unmount_patiently(directory)
        with suppress(OSError):
            os.rmdir(directory)


def _bind_directory(source: str, target: str) -> None:
    os.makedirs(target, exist_ok=True)
    mount(source, target, "", MS_BIND | MS_NODEV, "")


@asynccontextmanager
async def _propagation_tmpfs(spec: NspawnSpec) -> AsyncIterator[None]:
    directory = propagation_directory(spec.machine)
    if not needs_tmpfs(directory, read_mounts()):
        yield
        return
    await in_mount_thread(partial(_mount_propagation, directory, spec.root))
    try:
        yield
    finally:
        with trio.move_on_after(limits.CLOSE_SECONDS, shield=True):
            await unmount_patiently(directory)
        with suppress(OSError):
            os.rmdir(directory)


def _mount_propagation(directory: str, root: str) -> None:
    os.makedirs(directory, exist_ok=True)
    # Its source names the run, by which the next one finds it if this one is killed.
    mount(root, directory, "tmpfs", MS_NOSUID | MS_NODEV, f"size={limits.PROPAGATION_BYTES},mode=0755")


@contextmanager
def _bundle(spec: NspawnSpec, user: User) -> Iterator[str]:
    # Beside the root, so that what a crash leaves lies where the caller clears up.
    with tempfile.TemporaryDirectory(prefix="bundle-", dir=os.path.dirname(spec.root)) as directory:
        with open(f"{directory}/config.json", "w", encoding="utf-8", errors="surrogateescape") as config:
            config.write(bundle_config(spec, user, resource.getrlimit(resource.RLIMIT_NOFILE)))
        yield directory


class _Session:
    """One run."""

    def __init__(
        self,
        standby: Standby,
        on_first_output: Callable[[], None],
        on_started: Callable[[Machine], None],
    ) -> None:
        self._standby = standby
        self._streams = standby.streams
        self._on_first_output = on_first_output
        self._on_started = on_started
        self._output_seen = False
        self._leader_pid: int | None = None  # set: the program was started; perhaps it has ended since
        self._leader: ContainerProcess | None = None
        self._program: ContainerProcess | None = None
        self._decided = trio.Event()  # the program runs, or never will
        self._stopped_by: int | None = None  # a signal that came before the program ran
        self._stop_requests = 0
        self._exits: ExitWatch | None = None
        self._held = bytearray()  # what nspawn said before
        self._failure: OSError | OutputFailed | None = None  # of our own stdout or stderr

    async def run(self, spec: NspawnSpec, bundle: str | None) -> int:
        leader_socket = LeaderSocket(spec.network_namespace)
        self._exits = ExitWatch.open()
        try:
            with trio.open_signal_receiver(*forwarded_signals(), signal.SIGWINCH) as signals:
                argv = nspawn_argv(spec, interactive=self._streams.pty is not None, bundle=bundle)
                self._standby.become(argv, {"NOTIFY_SOCKET": leader_socket.name})
                status = await self._attend(self._standby.child, spec, leader_socket, signals)
            return self._result(status, spec)
        finally:
            leader_socket.close()
            if self._exits is not None:
                self._exits.close()
            if self._leader is not None:
                # nspawn ends its container with itself, except when it is killed.
                self._leader.send_signal(signal.SIGKILL)
                self._leader.close()
            if self._program is not None:
                self._program.close()

    async def _attend(
        self, child: ChildProcess, spec: NspawnSpec, leader_socket: LeaderSocket, signals: AsyncIterator[int]
    ) -> int:
        async with trio.open_nursery() as nursery:
            outputs = trio.CancelScope()
            nursery.start_soon(self._forward_signals, child, spec, signals, outputs)
            nursery.start_soon(self._watch_start, child, spec, leader_socket)
            nursery.start_soon(self._relay_input)
            if self._exits is not None:
                nursery.start_soon(self._exits.run)
            with outputs:
                await self._relay_outputs(child, leader_socket)
            nursery.cancel_scope.cancel()
        return await child.wait()

    async def _relay_outputs(self, child: ChildProcess, leader_socket: LeaderSocket) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._relay_output)
            nursery.start_soon(self._relay_errors)
            await child.wait()
            # A short program: nspawn's message may not have been read yet.
            self._leader_pid = self._leader_pid or leader_socket.leader_nowait(child.pid)
            self._decided.set()

    def _result(self, status: int, spec: NspawnSpec) -> int:
        if self._failure is not None:
            raise self._failure
        if self._stopped_by is not None:
            return 128 + self._stopped_by
        code = self._program_code()
        if code is not None and not (spec.is_system and status in SYSTEM_CODES):
            return code
        if self._leader_pid is None:
            words = self._held.decode("utf-8", "replace").strip() or f"it ended with status {status}"
            raise ContainerFailed(f"systemd-nspawn could not start the container: {words}")
        return status if status >= 0 else 128 - status

    def _program_code(self) -> int | None:
        if self._program is not None and (code := self._program.exit_code()) is not None:
            return code
        if self._exits is None or self._leader_pid is None:
            return None
        if self._program is not None:
            status = self._exits.status_of(self._program.pid)
        else:
            status = self._exits.status_of_first_child(self._leader_pid)
        return None if status is None else shell_code(status)

    async def _watch_start(self, child: ChildProcess, spec: NspawnSpec, leader_socket: LeaderSocket) -> None:
        leader_pid = await leader_socket.wait_leader(child.pid)
        self._leader_pid = leader_pid
        self._leader = open_leader(leader_pid, child.pid)
        if self._leader is not None:
            if spec.is_system:
                self._program = open_leader(leader_pid, child.pid)
            else:
                self._program = await wait_program(self._leader)
            if self._program is not None:
                resize = partial(self._resize, child)
                self._on_started(NspawnMachine(spec, self._leader, self._program, self._standby.group, resize))
        self._decided.set()

    def _resize(self, child: ChildProcess, size: TerminalSize) -> None:
        if self._streams.pty is not None:
            self._streams.pty.resize(size.rows, size.columns)
            child.send_signal(signal.SIGWINCH)

    async def _forward_signals(
        self, child: ChildProcess, spec: NspawnSpec, signals: AsyncIterator[int], draining: trio.CancelScope
    ) -> None:
        async for number in signals:
            if number == signal.SIGWINCH:
                self._streams.resize()
                child.send_signal(number)
                continue
            self._stop_requests += number in STOPPING_SIGNALS
            if self._stop_requests == limits.STOP_SIGNALS_TO_KILL and self._leader is not None:
                self._leader.send_signal(signal.SIGKILL)  # and with it all of the container; nspawn then tidies up
            elif self._stop_requests >= limits.STOP_SIGNALS_TO_KILL:
                child.send_signal(signal.SIGKILL)
            elif child.exit_status is not None:
                draining.cancel()  # it has ended; what is left is output that nobody takes
            elif self._program is not None:
                self._program.send_signal(spec.signal_for(number))
            else:
                self._stopped_by = number
                child.send_signal(signal.SIGTERM)

    async def _relay_input(self) -> None:
        if self._streams.input is None:
            return
        try:
            await relay(*self._streams.input)
        except OSError as error:
            _log.warning("cannot read stdin: %s", error)
        if self._streams.pty is not None and self._program is not None:
            self._program.send_signal(signal.SIGHUP)  # a raw terminal has no end of file: it hung up

    async def _relay_output(self) -> None:
        if self._streams.output is None:
            return
        try:
            await relay(*self._streams.output, self._note_output)
        except (OSError, OutputFailed) as error:
            self._failure = self._failure or error

    async def _relay_errors(self) -> None:
        source, sink = self._streams.errors
        await self._hold_errors(source)
        if self._leader_pid is None or self._stopped_by is not None:
            return
        try:
            with source, sink:
                if self._held:
                    self._note_output()
                    await sink.write_all(bytes(self._held))
                await relay(source, sink, self._note_output)
        except BrokenPipeError:
            return
        except (OSError, OutputFailed) as error:
            self._failure = self._failure or error

    async def _hold_errors(self, source: Source) -> None:
        async def read() -> None:
            while data := await source.read():
                self._held += data
                del self._held[: -limits.HELD_STDERR_BYTES]

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            await self._decided.wait()
            nursery.cancel_scope.cancel()

    def _note_output(self) -> None:
        if not self._output_seen:
            self._output_seen = True
            self._on_first_output()
