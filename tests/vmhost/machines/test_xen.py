"""Xen: the configuration of a domain, and the driver against a program that takes xl's commands."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from tests.support import fake_xl
from tests.vmhost.machines.driving import (
    SECONDS,
    hear_it,
    hold_and_make_smaller,
    start_what_does_not_come_up,
    start_what_it_does_not_have,
)
from vmhost.machines.errors import CommandFailed
from vmhost.machines.spec import KERNEL_WORDS, Accelerator, FileDisk, MachineSpec, NbdDisk, SharedDirectory
from vmhost.machines.xen import XenDriver, domain_config, domain_end

_LINE = "hypernode.agent.0"
_DISKS = (FileDisk("metadata", "/meta", read_only=True), FileDisk("blob", "/blob", read_only=False))


def make_spec(**changes: object) -> MachineSpec:
    fields = {"name": "box", "kernel": "/k", "initrd": "/i", "channels": (_LINE,), "disks": _DISKS}
    return MachineSpec(**fields | changes)  # type: ignore[arg-type]


@pytest.fixture
def driver(tmp_path: Path) -> XenDriver:
    (tmp_path / "machine").mkdir()
    return XenDriver(fake_xl.install(tmp_path))


def test_the_configuration() -> None:
    """xl 4.17 itself, asked by hand what it reads in this one (`create -n`), said the same."""
    spec = make_spec(cpus=2, words=("host=box", 'sshkey="ssh-ed25519 AAAA me@x"'))
    assert domain_config(spec, {_LINE: "/run/a.sock"}).splitlines() == [
        'name = "box"',
        'type = "pvh"',
        'kernel = "/k"',
        'ramdisk = "/i"',
        (
            f"cmdline = 'console=hvc0 {' '.join(KERNEL_WORDS)} hyper.xvda=metadata hyper.xvdb=blob hyper.agent=hvc1"
            ' host=box sshkey="ssh-ed25519 AAAA me@x"\''
        ),
        "vcpus = 2",
        "memory = 512",
        'disk = [ "format=raw,vdev=xvda,access=ro,target=/meta", "format=raw,vdev=xvdb,access=rw,target=/blob" ]',
        'channel = [ "name=hypernode.agent.0,connection=socket,path=/run/a.sock" ]',
        'on_poweroff = "destroy"',
        'on_reboot = "destroy"',
        'on_crash = "destroy"',
        'on_watchdog = "destroy"',
    ]


@pytest.mark.parametrize(
    "changes",
    [
        {"network": True},
        {"channels": ("a", "b")},
        {"disks": (NbdDisk("blob", "/nbd"),)},
        {"disks": (FileDisk("blob", '/a"b', read_only=True),)},
        {"kernel": "/a,b"},
        {"words": ("it's",)},
        {"shares": (SharedDirectory("data", "/srv"),)},
        {"pci_devices": ("01:00.0",)},
    ],
)
async def test_what_it_does_not_have_is_refused(driver: XenDriver, tmp_path: Path, changes: dict[str, object]) -> None:
    await start_what_it_does_not_have(driver, make_spec(**changes), tmp_path / "machine")
    assert not (tmp_path / "commands").exists()


async def test_a_machine_from_its_start_to_its_end(driver: XenDriver, tmp_path: Path) -> None:
    place = tmp_path / "machine"
    with trio.fail_after(SECONDS):
        async with driver.running(make_spec(), place) as machine:
            assert machine.accelerator is Accelerator.XEN
            assert machine.accelerator.is_boundary
            config = (place / "domain.cfg").read_text()
            assert config == domain_config(make_spec(), {_LINE: f"{place}/{_LINE}.sock"})
            assert ["create", "-F", f"{place}/domain.cfg"] in fake_xl.commands(tmp_path)
            with machine.channel_path(_LINE) as path:
                assert path.endswith(f"/{_LINE}.sock")
            await hold_and_make_smaller(machine)
            asked = [one for one in fake_xl.commands(tmp_path) if one[0] not in ("domid", "create", "console")]
            assert asked == [["pause", "box"], ["unpause", "box"], ["mem-set", "box", "256m"]]
            await hear_it(machine)
            (tmp_path / "box.domain").write_text("0")
            end = await machine.wait()
    assert (end.by_guest, end.reason) == (True, "the guest turned itself off")
    assert not (place / "domain").exists()


async def test_whatever_happens_the_domain_is_ended(driver: XenDriver, tmp_path: Path) -> None:
    place, domain = tmp_path / "machine", tmp_path / "box.domain"
    with trio.fail_after(SECONDS):
        async with driver.running(make_spec(), place) as machine:
            assert domain.exists()
            machine.kill()
            assert (await machine.wait()).reason == "it was ended from here"
        assert not domain.exists()
        async with driver.running(make_spec(), place):
            pass
        assert not domain.exists()
        # One whose node was killed: the next machine of the directory ends it first, whatever it is called now.
        (tmp_path / "older.domain").write_text("")
        (place / "domain").write_text("older")
        async with driver.running(make_spec(), place):
            assert not (tmp_path / "older.domain").exists()


async def test_a_saved_machine_goes_on(driver: XenDriver, tmp_path: Path) -> None:
    place, saved = tmp_path / "machine", tmp_path / "saved"
    with trio.fail_after(SECONDS):
        async with driver.running(make_spec(), place) as machine:
            await machine.save(saved)
            assert ["save", "-p", "box", str(saved)] in fake_xl.commands(tmp_path)
            await machine.resume()
            assert ["unpause", "box"] in fake_xl.commands(tmp_path)
        async with driver.running(make_spec(), place, restore=saved) as machine:
            assert ["restore", "-F", f"{place}/domain.cfg", str(saved)] in fake_xl.commands(tmp_path)
            (tmp_path / "box.domain").unlink()
            await machine.wait()
            with pytest.raises(CommandFailed, match="xl pause failed: box is an invalid domain"):
                await machine.pause()


async def test_what_does_not_come_up_says_why(driver: XenDriver, tmp_path: Path) -> None:
    rude, missing = make_spec(words=("rude",)), XenDriver("no-such-program")
    await start_what_does_not_come_up(driver, missing, rude, tmp_path / "machine")


@pytest.mark.parametrize(
    ("status", "words", "killed", "told"),
    [
        (0, b"Domain 5 has shut down, reason code 0 0x0\n", False, "turned itself off"),
        (0, b"Domain 5 has been shut down, reason code 1\n", False, "rebooted"),
        (0, b"Domain 5 has shut down, reason code 3 0x3\n", False, "crashed"),
        (0, b"Domain 5 has shut down, reason code 9 0x9\n", False, "reason 9"),
        (0, b"", True, "from here"),
        (1, b"libxl: error\n", False, "libxl: error"),
        (1, b"", False, "status 1"),
    ],
)
def test_how_it_ended(status: int, words: bytes, killed: bool, told: str) -> None:
    end = domain_end(status, words, killed_by_us=killed)
    assert told in end.reason
    assert end.by_guest is (b"code 0" in words)
