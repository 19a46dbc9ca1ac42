"""Which directories a machine may see, and how they are served."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest

from hyperlog.errors import Refused
from vmhost.machines.limits import SHARES_MAX
from vmhost.machines.qemu_argv import Platform, qemu_argv
from vmhost.machines.shares import check_shareable, share_argv
from vmhost.machines.spec import Accelerator, MachineSpec, Model, SharedDirectory


def options(argv: list[str], name: str) -> list[str]:
    return [value for option, value in pairwise(argv) if option == name]


def test_a_machine_with_directories_has_its_memory_in_a_file() -> None:
    share = SharedDirectory("bind0", "/srv")
    spec = MachineSpec(name="m", kernel="/k", initrd="/i", shares=(share,))
    argv = qemu_argv(spec, Platform("amd64", Accelerator.TCG, Model.MICROVM, 1))
    assert options(argv, "-object") == ["memory-backend-memfd,id=memory,size=512M,share=on"]
    assert options(argv, "-machine") == ["microvm,memory-backend=memory"]
    assert "socket,id=share0,path=share0.sock" in options(argv, "-chardev")
    assert "vhost-user-fs-device,chardev=share0,tag=bind0" in options(argv, "-device")
    with pytest.raises(Refused, match="too many"):
        MachineSpec(name="m", kernel="/k", initrd="/i", shares=(share,) * (SHARES_MAX + 1))


def test_only_a_layer_gets_the_right_to_overlayfs_marks() -> None:
    layer = options(share_argv(SharedDirectory("layer", "/v", is_layer=True), 7), "-o")
    plain = options(share_argv(SharedDirectory("bind0", "/a\\b,c"), 7), "-o")
    assert "modcaps=+sys_admin:-mknod" in layer
    assert "modcaps=-mknod" in plain
    assert "source=/a\\\\b\\,c" in plain
    assert not {"writeback", "sandbox=chroot"} & {*layer, *plain}


def test_read_only_is_the_hosts_doing() -> None:
    argv = share_argv(SharedDirectory("bind0", "/srv", read_only=True), 7)
    assert argv[:2] == ["unshare", "--mount"]
    assert "remount,bind,ro" in argv[4]
    assert argv[6] == "/srv"


def test_what_holds_the_homes_keys_is_not_shown(tmp_path: Path) -> None:
    home, other = tmp_path / "home", tmp_path / "other"
    (home / "keys").mkdir(parents=True)
    other.mkdir()
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to(home / "keys")
    check_shareable(str(other), home)
    for path in (home, home / "keys", tmp_path, tmp_path / "link", Path("/")):
        with pytest.raises(Refused, match="keys of this home"):
            check_shareable(str(path), home)
    for path in (Path("/proc"), Path("/sys/kernel"), Path("/dev")):
        with pytest.raises(Refused, match="kernel"):
            check_shareable(str(path), home)
    with pytest.raises(Refused, match="no directory"):
        check_shareable(str(tmp_path / "file"), home)
