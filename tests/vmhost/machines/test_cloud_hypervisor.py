"""Cloud Hypervisor: its command line, and its driver against a program that speaks its API."""

from __future__ import annotations

import json
import os
import signal
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.support import fake_cloud_hypervisor
from tests.vmhost.machines.driving import (
    SECONDS,
    hear_it,
    hold_and_make_smaller,
    start_what_does_not_come_up,
    start_what_it_does_not_have,
)
from vmhost.agent.vsock import VsockAddress, connect_vsock
from vmhost.machines.cloud_hypervisor import (
    CloudHypervisorDriver,
    CloudHypervisorMachine,
    cloud_hypervisor_argv,
    machine_end,
    restored_config,
)
from vmhost.machines.errors import CommandFailed, MachineBusy, MachineFailed
from vmhost.machines.spec import KERNEL_WORDS, FileDisk, MachineSpec, NbdDisk, SharedDirectory
from vmhost.machines.vmm_api import ask

_LINE = "hypernode.agent.0"
_DISK = FileDisk("metadata", "/meta", read_only=True, direct=True)


def make_spec(**changes: object) -> MachineSpec:
    fields = {"name": "m", "kernel": "/k", "initrd": "/i", "channels": (_LINE,), "disks": (_DISK,)}
    return MachineSpec(**fields | changes)  # type: ignore[arg-type]


@pytest.fixture
def driver(tmp_path: Path) -> CloudHypervisorDriver:
    (tmp_path / "machine").mkdir()
    return CloudHypervisorDriver(fake_cloud_hypervisor.install(tmp_path))


def asked(directory: Path) -> Any:
    return json.loads((directory / "asked.json").read_text())


def test_the_command_line() -> None:
    shares = (SharedDirectory("data", "/srv"),)
    argv = cloud_hypervisor_argv(make_spec(cpus=2, memory_mib=256, words=("host=m",), shares=shares))
    options = dict(pairwise(argv))
    assert options["--cpus"] == "boot=2"
    assert options["--memory"] == "size=256M,shared=on"
    assert (options["--kernel"], options["--initramfs"]) == ("/k", "/i")
    assert options["--cmdline"] == " ".join(("console=ttyS0", *KERNEL_WORDS, "hyper.agent=vsock:1024", "host=m"))
    assert options["--disk"] == "path=/meta,readonly=on,direct=on,serial=metadata"
    assert options["--vsock"] == "cid=3,socket=vsock.sock"
    assert options["--fs"] == "tag=data,socket=share0.sock"
    assert options["--balloon"].startswith("size=0,")
    devices = dict(pairwise(cloud_hypervisor_argv(make_spec(pci_devices=("01:00.0",)))))
    assert devices["--device"] == "path=/sys/bus/pci/devices/0000:01:00.0"
    alone = cloud_hypervisor_argv(make_spec(channels=(), disks=()))
    assert {"--vsock", "--disk", "--fs", "--device"}.isdisjoint(alone)
    assert "hyper.agent" not in " ".join(alone)
    restored = cloud_hypervisor_argv(make_spec(), restore="/saved")
    assert restored[1:] == ["--api-socket", "path=api.sock", "--restore", "source_url=file:///saved"]


@pytest.mark.parametrize(
    "changes",
    [
        {"network": True},
        {"channels": ("a", "b")},
        {"disks": (NbdDisk("blob", "/nbd"),)},
        {"disks": (FileDisk("blob", "/a,b", read_only=True),)},
    ],
)
async def test_what_it_does_not_have_is_refused(
    driver: CloudHypervisorDriver, tmp_path: Path, changes: dict[str, object]
) -> None:
    await start_what_it_does_not_have(driver, make_spec(**changes), tmp_path / "machine")
    assert not (tmp_path / "machine" / "argv.json").exists()


async def test_a_machine_from_its_start_to_its_end(driver: CloudHypervisorDriver, tmp_path: Path) -> None:
    place = tmp_path / "machine"
    with trio.fail_after(SECONDS):
        async with driver.running(make_spec(), place) as machine:
            assert json.loads((place / "argv.json").read_text()) == cloud_hypervisor_argv(make_spec())[1:]
            with pytest.raises(MachineBusy):
                async with driver.running(make_spec(), place):
                    pass
            await hold_and_make_smaller(machine)
            assert asked(place) == [
                ["vm.pause", None],
                ["vm.resume", None],
                ["vm.resize", {"desired_balloon": 256 << 20}],
            ]
            await hear_it(machine)
            await check_line(machine)
            os.kill(machine.pid, signal.SIGUSR1)
            end = await machine.wait()
    assert (end.by_guest, end.reason) == (True, "the guest turned itself off")


async def check_line(machine: CloudHypervisorMachine) -> None:
    """Nobody listens at first; whoever knocks at another port is hung up on."""
    with machine.channel_path(_LINE) as address:
        assert isinstance(address, VsockAddress)
        with pytest.raises(ConnectionRefusedError):
            await connect_vsock(VsockAddress(address.path, 7))
        while True:
            try:
                stream = await connect_vsock(address)
                break
            except ConnectionRefusedError:
                await trio.sleep(0.01)
        async with stream:
            await stream.send_all(b"all of it is ours")
            assert await stream.receive_some() == b"all of it is ours"


async def test_a_saved_machine_goes_on_with_other_disks(driver: CloudHypervisorDriver, tmp_path: Path) -> None:
    place, saved = tmp_path / "machine", tmp_path / "saved"
    with trio.fail_after(SECONDS):
        async with driver.running(make_spec(), place) as machine:
            await machine.save(saved)
            machine.kill()
            assert (await machine.wait()).reason == "it was ended from here"
        async with driver.running(make_spec(), place, restore=saved) as machine:
            config = json.loads((place / "restored" / "config.json").read_text())
            assert config == {"disks": [{"path": "/meta", "readonly": True}], "cpus": 1}
            assert (place / "restored" / "memory-ranges").read_bytes() == b"memory"
            assert asked(place) == [["vm.resume", None]]
        assert not (place / "restored").exists()
        with pytest.raises(MachineFailed, match="1 disks, this one 0"):
            async with driver.running(make_spec(disks=()), place, restore=saved):
                pass
        with pytest.raises(MachineFailed, match="cannot be read"):
            async with driver.running(make_spec(), place, restore=tmp_path / "missing"):
                pass


async def test_what_does_not_come_up_says_why(driver: CloudHypervisorDriver, tmp_path: Path) -> None:
    rude, missing = make_spec(words=("rude",)), CloudHypervisorDriver("no-such-program")
    await start_what_does_not_come_up(driver, missing, rude, tmp_path / "machine")


async def test_the_api_refuses_and_is_not_believed(
    driver: CloudHypervisorDriver, tmp_path: Path, nursery: trio.Nursery
) -> None:
    with trio.fail_after(SECONDS):
        async with driver.running(make_spec(), tmp_path / "machine"):
            path = str(tmp_path / "machine" / "api.sock")
            with pytest.raises(CommandFailed, match=r"vm\.resume: status 405"):
                await ask(path, "PUT", "vm.resume")
            with pytest.raises(CommandFailed, match="not paused"):
                await ask(path, "PUT", "vm.snapshot", {"destination_url": "file:///x"})
        for number, said in enumerate(
            (b"", b"nonsense\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n")
        ):
            path = str(tmp_path / f"liar{number}")
            listening = trio.socket.socket(trio.socket.AF_UNIX, trio.socket.SOCK_STREAM)
            await listening.bind(path)
            listening.listen(1)
            nursery.start_soon(_answer, listening, said)
            with pytest.raises(MachineFailed):
                await ask(path, "GET", "vm.info")


async def _answer(listening: trio.socket.SocketType, said: bytes) -> None:
    with listening:
        connection, _ = await listening.accept()
        with connection:
            await connection.recv(4096)
            await connection.send(said)


def test_a_configuration_that_is_none() -> None:
    configs: tuple[object, ...] = (None, [], {"disks": 1}, {"disks": [1]})
    for config in configs:
        with pytest.raises(MachineFailed):
            restored_config(config, make_spec())


@pytest.mark.parametrize(
    ("status", "words", "killed", "told"),
    [
        (0, b"", False, "turned itself off"),
        (0, b"", True, "from here"),
        (-signal.SIGKILL, b"", False, "was killed"),
        (-signal.SIGSEGV, b"", False, "signal 11"),
        (1, b"Error booting VM\n", False, "Error booting VM"),
        (2, b"", False, "status 2"),
    ],
)
def test_how_it_ended(status: int, words: bytes, killed: bool, told: str) -> None:
    end = machine_end(status, words, killed_by_us=killed)
    assert told in end.reason
    assert end.by_guest is (status == 0 and not killed)
