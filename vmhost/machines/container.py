"""A container in a virtual machine of its own: started, relayed, watched, ended. What `console.py` does on this host.

    node ── disks: EROFS metadata, blob ──▶ QEMU ── virtio-blk ──▶ guest: EROFS, overlay, systemd-nspawn
    host's directories ──▶ virtiofsd ──▶ QEMU ── virtiofs ──▶ guest: the overlay's upper layer, if it is kept; binds
    this process ◀── streams, signals, exit code: the agent's channel ──▶ program in the container

The guest's first and only container is led by an idle program of the guest's own; the image's command is then run into
it as any later one is: the agent looks up user, directory and program where the image's links mean what they should,
gives it a terminal, and tells how it ended. With the command the machine ends. A whole system is led by its own init.

The machine and the host share no network but what was asked for. In the guest the container has the guest's own: a
second network inside of the first would separate nothing.
"""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

import trio

from hyperlog.errors import Unavailable
from vmhost.agent.client import NODEV, RDONLY, Agent, Mount, open_agent
from vmhost.agent.machine import AgentMachine
from vmhost.agent.protocol import PORT_NAME
from vmhost.agent.session import Session
from vmhost.agent.vsock import VsockAddress
from vmhost.errors import AgentLost, ContainerFailed
from vmhost.limits import STOP_SIGNALS_TO_KILL
from vmhost.machine import STOPPING_SIGNALS, Machine, forwarded_signals
from vmhost.machines import limits
from vmhost.machines.driver import MachineEnd, VirtualMachine
from vmhost.machines.errors import MachineFailed, MachineHangs
from vmhost.machines.guest_binds import guest_binds
from vmhost.machines.output import collect
from vmhost.machines.program_streams import ProgramStreams, outcome_of
from vmhost.machines.setup import LAYER, MachineHost, MachineSetup, RestorePoint, bind_tag
from vmhost.machines.spec import Accelerator, MachineSpec
from vmhost.machines.template import WORDS, begun_from, discard_template, make_template
from vmhost.nbd_server import BLOB, METADATA
from vmhost.nspawn import Bind, NspawnSpec, nspawn_argv

_T = TypeVar("_T")
_PLACE: Final = "/run/hyper/container"
_ROOT: Final = f"{_PLACE}/root"
_BINDS: Final = f"{_PLACE}/binds"
_UPPER: Final = f"{_PLACE}/upper"
_TOOL: Final = "/bin/busybox"
_IDLE: Final = ("/run/hypernode/busybox", "sleep", "2147483647")
_TELL_DISKS: Final = (
    "for d in /sys/block/vd* /sys/block/xvd*; do [ -e $d ] || continue; n=${d##*/}; "
    # Xen's have no serial numbers: the kernel's command line has the names.
    'if [ -e $d/serial ]; then read -r s <$d/serial; else s=$(sed "s/.*hyper.$n=//; s/ .*//" /proc/cmdline); fi; '
    'echo "$s $n"; echo "$0" >$d/queue/read_ahead_kb; done'
)


class MachineRunner:
    """Implements `vmhost.machine.Runner`.

    `hosts`: the next one is tried when a machine of a quick one does not come up; why goes to `on_unfit`.
    `restore`: go on with that instead of booting, on the first of them.
    """

    def __init__(
        self,
        setup: MachineSetup,
        hosts: Sequence[MachineHost],
        *,
        note: Callable[[str], None],
        on_unfit: Callable[[str], None],
        restore: RestorePoint | None = None,
    ) -> None:
        self._setup = setup
        self._restore = restore
        self._hosts = hosts
        self._note = note
        self._on_unfit = on_unfit

    async def __call__(
        self,
        spec: NspawnSpec,
        *,
        stdin: int,
        stdout: int,
        stderr: int,
        tty: bool,
        on_first_output: Callable[[], None],
        on_started: Callable[[Machine], None],
    ) -> int:
        """See there. Raises besides MachineFailed, MachineHangs, NoHypervisor, MachineBusy."""
        machine = self._setup.spec(spec.machine, spec.binds)
        with trio.open_signal_receiver(*forwarded_signals(), signal.SIGWINCH) as signals, ExitStack() as stack:
            streams = ProgramStreams(stack, stdin, stdout, stderr, tty=tty, on_first_output=on_first_output)
            run = _Run(spec, self._setup, streams, on_started, self._note, self._restore)
            outcome: int | Exception | None = None
            async with trio.open_nursery() as nursery:
                nursery.start_soon(run.forward_signals, signals)
                with run.scope:
                    outcome = await outcome_of(partial(self._try_drivers, machine, run))
                nursery.cancel_scope.cancel()
        if isinstance(outcome, Exception):
            raise outcome
        return 128 + run.stopped_by if outcome is None else outcome

    async def _try_drivers(self, machine: MachineSpec, run: _Run) -> int:
        if self._restore is not None:
            return await self._run_on(self._hosts[0], replace(machine, words=WORDS), self._restore.state, run)
        for place, host in enumerate(self._hosts, start=1):
            try:
                return await self._attempt(host, machine, run)
            except (MachineFailed, MachineHangs) as error:
                if run.has_started or not host.is_quick:
                    raise
                self._on_unfit(error.message)
                if place == len(self._hosts):
                    raise
        raise AssertionError("there is nothing to run it on")

    async def _attempt(self, host: MachineHost, machine: MachineSpec, run: _Run) -> int:
        saved = await self._template(host, machine)
        if saved is not None:
            try:
                return await self._run_on(host, *begun_from(saved, machine), run)
            except (MachineFailed, MachineHangs) as error:
                if run.has_started:
                    raise
                self._note(f"the saved machine is of no use, one is booted: {error.message}")
                await trio.to_thread.run_sync(discard_template, saved)
        return await self._run_on(host, machine, None, run)

    async def _template(self, host: MachineHost, machine: MachineSpec) -> Path | None:
        """The saved machine to begin from, made now if need be. Raises MachineFailed where another host may do."""
        if host.template is None or machine.pci_devices or machine.shares:
            return None
        if not await trio.to_thread.run_sync(host.template.exists):
            seconds = limits.KVM_SILENT_SECONDS if host.is_quick else limits.BOOT_SECONDS
            try:
                await make_template(host.driver, machine, host.template, seconds=seconds)
            except Unavailable as error:
                if host.is_quick:
                    raise MachineFailed(error.message, error.hint) from None
                self._note(f"the machine could not be saved for next time: {error.message}")
                return None
        return host.template

    async def _run_on(self, host: MachineHost, machine: MachineSpec, saved: Path | None, run: _Run) -> int:
        outcome: int | Exception = AssertionError("it did not run")
        run.about = host.about
        async with host.driver.running(machine, self._setup.directory, restore=saved) as vm:
            outcome = await outcome_of(partial(run.contain, vm, is_quick=host.is_quick, asleep=saved is not None))
        if isinstance(outcome, Exception):
            raise outcome
        return outcome


class _Run:
    """One container, on whichever machine."""

    def __init__(
        self,
        spec: NspawnSpec,
        setup: MachineSetup,
        streams: ProgramStreams,
        on_started: Callable[[Machine], None],
        note: Callable[[str], None],
        restore: RestorePoint | None,
    ) -> None:
        self._spec = spec if restore is None else replace(spec, machine=restore.sessions.container)
        self._setup = setup
        self._restore = restore
        self._streams = streams
        self._on_started = on_started
        self._note = note
        self._main: Session | None = None
        self._container: AgentMachine | None = None
        self._stop_requests = 0
        self.scope = trio.CancelScope()
        self.about: Mapping[str, str] = {}
        self.stopped_by = 0
        """A signal that came before the program ran."""

    @property
    def has_started(self) -> bool:
        return self._main is not None

    async def forward_signals(self, signals: AsyncIterator[int]) -> None:
        async for number in signals:
            self._stop_requests += number in STOPPING_SIGNALS
            if self._main is None or self._container is None:
                if number != signal.SIGWINCH:
                    self.stopped_by = number
                    self.scope.cancel()
            elif number == signal.SIGWINCH:
                self._main.resize(*self._streams.size())
            elif self._stop_requests >= STOP_SIGNALS_TO_KILL:
                self._container.kill()
            else:
                self._main.signal(self._spec.signal_for(number))

    async def contain(self, vm: VirtualMachine, *, is_quick: bool, asleep: bool) -> int:
        """The program's exit code."""
        outcome: int | Exception = AgentLost("it did not answer any more")
        ended: list[MachineEnd] = []
        async with trio.open_nursery() as nursery:

            async def watch() -> None:
                ended.append(await vm.wait())
                # What it said before it ended may not have been read yet.
                await trio.sleep(limits.LAST_WORDS_SECONDS)
                nursery.cancel_scope.cancel()

            nursery.start_soon(watch)
            outcome = await outcome_of(partial(self._work, vm, is_quick=is_quick, asleep=asleep))
            if isinstance(outcome, AgentLost):
                with trio.move_on_after(limits.LAST_WORDS_SECONDS):
                    await trio.sleep_forever()  # `watch` sees it, if that is why
            nursery.cancel_scope.cancel()
        if not isinstance(outcome, AgentLost):
            if isinstance(outcome, Exception):
                raise outcome
            return outcome
        if self._container is not None and self._container.is_killed:
            return 128 + signal.SIGKILL
        if ended:
            raise MachineFailed(f"the virtual machine is gone: {ended[0].reason}", hint=vm.speech.last_words() or None)
        raise MachineHangs(f"the virtual machine hangs: {outcome.message}", hint=vm.speech.last_words() or None)

    async def _work(self, vm: VirtualMachine, *, is_quick: bool, asleep: bool) -> int:
        async with AsyncExitStack() as stack:
            path = stack.enter_context(vm.channel_path(PORT_NAME))
            if self._restore is not None:
                opening = open_agent(path, deadline=limits.BOOT_SECONDS, resuming=True)
                agent = await stack.enter_async_context(opening)
                main, lead = self._restore.sessions.resume(agent)
                await self._wake(agent)
            else:
                agent = await self._meet(vm, path, stack, is_quick=is_quick)
                if asleep:
                    await agent.reseed(f"host={self._spec.hostname}")
                await self._mount(agent)
                lead = await self._lead(agent, vm.accelerator)  # of a system it is the program
                if self._spec.limits.cpus is not None and self._spec.limits.cpus < vm.spec.cpus:
                    await agent.limit(self._spec.machine, cpus=self._spec.limits.cpus, memory=None)
                main = lead if self._spec.is_system else await self._start(agent)
            self._main = main
            self._container = AgentMachine(
                vm,
                agent,
                self._spec,
                main,
                lead=None if lead is main else lead,
                about=self.about,
                unsavable=self._unsavable(),
            )
            self._on_started(self._container)
            code = await self._streams.relay(main)
            await self._settle(agent)
            if self._container.oom_killed:
                self._note(f"the guest ran out of memory: it has {self._setup.memory_mib} MiB; raise --memory")
            elif code and self._setup.layer is None and await self._is_full(agent):
                self._note(f"what the image may write is full: {self._room_mib} MiB; raise --memory")
            return code

    @property
    def _room_mib(self) -> int:
        return upper_mib(self._setup.memory_mib)

    async def _is_full(self, agent: Agent) -> bool:
        try:
            async with await agent.exec(["stat", "-f", "-c", "%a", _UPPER]) as telling:
                return (await collect(telling.stdout)).strip() == b"0"
        except Unavailable:
            return False

    async def _wake(self, agent: Agent) -> None:
        """What was saved becomes a machine of its own, before any program of the container goes on."""
        mac = ":".join(f"{byte:02x}" for byte in (0x52, 0x54, 0x00, *os.urandom(3)))
        await agent.reseed(f"host={self._spec.hostname} mac={mac}")
        await agent.rename(self._spec.machine, self._spec.hostname)
        await agent.hold(self._spec.machine, on=False)

    def _unsavable(self) -> str | None:
        if self._setup.layer is not None or self._spec.binds:
            return "directories of this host (--keep, --volume, --bind) cannot be saved with a machine"
        if self._spec.is_system:
            return "whole systems (--system) are not saved with their machines"
        if self._setup.pci_devices:
            return "devices of this host (--gpu) cannot be saved with a machine"
        if "shape" not in self.about:
            return "machines of this hypervisor are not saved with their containers, only those of QEMU"
        return None

    async def _meet(
        self, vm: VirtualMachine, path: str | VsockAddress, stack: AsyncExitStack, *, is_quick: bool
    ) -> Agent:
        if is_quick:
            with trio.move_on_after(limits.KVM_SILENT_SECONDS):
                return await stack.enter_async_context(open_agent(path, deadline=limits.BOOT_SECONDS))
            if not vm.speech.console_bytes:
                raise AgentLost(f"it has said nothing for {limits.KVM_SILENT_SECONDS:g} s")
        return await stack.enter_async_context(open_agent(path, deadline=limits.BOOT_SECONDS))

    async def _mount(self, agent: Agent) -> None:
        disks = await _find_disks(agent, self._setup.read_ahead_kib)
        lower, upper = f"{_PLACE}/lower", _UPPER
        layers = f"lowerdir={lower},upperdir={upper}/upper,workdir={upper}/work,metacopy=on,index=off"
        if self._setup.layer is None:
            space = Mount("hypernode", upper, "tmpfs", NODEV, f"mode=0755,size={self._room_mib}m")
        else:
            space = Mount(LAYER, upper, "virtiofs", NODEV)
        binds = [Mount(bind_tag(place), f"{_BINDS}/{place}", "virtiofs") for place, _ in enumerate(self._spec.binds)]
        await agent.mount(
            [
                Mount(f"/dev/{disks[METADATA]}", lower, "erofs", RDONLY | NODEV, f"device=/dev/{disks[BLOB]}"),
                space,
                Mount("", f"{upper}/upper", "directory"),
                Mount("", f"{upper}/work", "directory"),
                Mount("hypernode", _ROOT, "overlay", NODEV, layers),
                Mount("", f"{_ROOT}/usr", "directory"),  # nspawn refuses a root without
                Mount("", f"{_ROOT}/tmp", "directory"),
                *binds,
            ]
        )

    async def _lead(self, agent: Agent, accelerator: Accelerator) -> Session:
        """systemd-nspawn, whose container the image's command is then run into. Raises ContainerFailed."""
        shown = await guest_binds(agent, self._spec, _ROOT, _PLACE, network=self._setup.network)
        theirs = [replace(bind, source=f"{_BINDS}/{place}") for place, bind in enumerate(self._spec.binds)]
        led = replace(
            self._spec, root=_ROOT, host_network=True, binds=(*shown, Bind(_TOOL, _IDLE[0], read_only=True), *theirs)
        )
        if not led.is_system:
            led = replace(led, argv=_IDLE, env={}, workdir="/", user="root")
        environment = {"SYSTEMD_LOG_LEVEL": "warning", "SYSTEMD_NSPAWN_TMPFS_TMP": "0"}
        if accelerator is Accelerator.TCG:
            environment["SYSTEMD_SECCOMP"] = "0"  # compiling the filter takes half of nspawn's time there
        terminal = self._streams.size() if self._streams.tty and led.is_system else None
        argv = nspawn_argv(led, interactive=terminal is not None, bundle=None)
        lead = await agent.exec(argv, env=environment, tty=terminal, leads=self._spec.machine)
        if not await lead.running():
            words = (await collect(lead.stderr)).decode("utf-8", "replace").strip()
            raise ContainerFailed(f"systemd-nspawn could not start the container: {words or 'it ended at once'}")
        return lead

    async def _settle(self, agent: Agent) -> None:
        """What the program left in mapped pages of the host's directories goes there before the machine ends."""
        if self._setup.layer is None and not self._spec.binds:
            return
        with trio.move_on_after(limits.SYNC_SECONDS):
            async with await agent.exec(["sync"]) as syncing:
                await syncing.wait()
            return
        self._note(f"the machine did not write everything to this host within {limits.SYNC_SECONDS:g} s")

    async def _start(self, agent: Agent) -> Session:
        """The image's command. Raises ProgramNotFound, ProgramNotExecutable, Refused."""
        spec = self._spec
        if spec.workdir != "/":  # builders record it without making it
            make = [_IDLE[0], "mkdir", "-p", spec.workdir]
            async with await agent.exec(make, container=spec.machine) as making:
                await making.wait()
        return await agent.exec(
            spec.argv,
            env={"container": "systemd-nspawn", **self._streams.environment, **spec.env},
            workdir=spec.workdir,
            user=spec.user,
            tty=self._streams.size() if self._streams.tty else None,
            container=spec.machine,
        )


def upper_mib(memory_mib: int) -> int:
    """How much of a guest's memory what its container writes may take: it is full before the guest is. Pure."""
    return max(memory_mib // 8, min(memory_mib * 3 // 4, memory_mib - limits.GUEST_MIB))


async def _find_disks(agent: Agent, read_ahead_kib: int) -> dict[str, str]:
    """The guest's names of its disks, by their serials; what it reads ahead on them is set."""
    async with await agent.exec(["sh", "-c", _TELL_DISKS, str(read_ahead_kib)]) as telling:
        lines = (await collect(telling.stdout)).decode("ascii", "replace").splitlines()
    found = dict(line.split(" ", 1) for line in lines if " " in line)
    if not {METADATA, BLOB} <= found.keys():
        raise MachineFailed("the guest does not find its disks")
    return found
