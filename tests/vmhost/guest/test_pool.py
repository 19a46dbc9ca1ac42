"""Debian packages as files to read, kernels in them, and what is wrong with them."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from vmhost.errors import GuestSourceBad
from vmhost.guest.kernel import direct_kernel
from vmhost.guest.pool import Pool


def _deb(path: Path, fill: Callable[[tarfile.TarFile], None], packing: str = "xz") -> Path:
    buffer = io.BytesIO()
    modes = {"xz": "w:xz", "gz": "w:gz", "": "w:"}
    with tarfile.open(fileobj=buffer, mode=modes[packing]) as archive:  # type: ignore[call-overload]
        fill(archive)
    content = b"!<arch>\n"
    members = {"debian-binary": b"2.0\n", f"data.tar{'.' if packing else ''}{packing}": buffer.getvalue()}
    for name, data in members.items():
        content += (
            f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(data):<10}`\n".encode() + data + b"\n" * (len(data) % 2)
        )
    path.write_bytes(content)
    return path


def _fill(archive: tarfile.TarFile) -> None:
    file = tarfile.TarInfo("./lib/real.so.1")
    file.size, file.mode = 4, 0o644
    archive.addfile(file, io.BytesIO(b"ELF!"))
    for name, kind, target in (
        ("./usr/lib/soname.so", tarfile.SYMTYPE, "real.so.1"),
        ("./etc/absolute", tarfile.SYMTYPE, "/lib/soname.so"),
        ("./etc/hard", tarfile.LNKTYPE, "./lib/real.so.1"),
        ("./etc/around", tarfile.SYMTYPE, "around"),
        ("./etc/nowhere", tarfile.SYMTYPE, "../../../../../../nowhere"),
    ):
        link = tarfile.TarInfo(name)
        link.type, link.linkname = kind, target
        archive.addfile(link)


@pytest.mark.parametrize("packing", ["xz", "gz", ""])
def test_files_are_found_through_links(tmp_path: Path, packing: str) -> None:
    with Pool([_deb(tmp_path / "a.deb", _fill, packing)], tmp_path) as pool:
        for path in ("/lib/real.so.1", "usr/lib/soname.so", "/etc/absolute", "/etc/hard"):
            assert pool.read(path) == (b"ELF!", 0o644)
        for path in ("/etc/around", "/etc/nowhere", "/etc/missing"):
            assert pool.find(path) is None
            with pytest.raises(GuestSourceBad):
                pool.read(path)


def test_what_is_no_package_is_refused(tmp_path: Path) -> None:
    whole = _deb(tmp_path / "whole.deb", _fill).read_bytes()
    for number, content in enumerate(
        (b"", b"!<arch>\n", b"MZ", whole[:90], whole[:-40], whole.replace(b"7zXZ", b"....", 1))
    ):
        path = tmp_path / f"{number}.deb"
        path.write_bytes(content)
        with pytest.raises(GuestSourceBad):
            Pool([path], tmp_path)


@pytest.mark.parametrize("arch", ["amd64", "arm64"])
def test_what_is_no_kernel_is_refused(arch: str) -> None:
    image = bytearray(0x1000)
    for content in (b"", bytes(600), bytes(image)):
        with pytest.raises(GuestSourceBad):
            direct_kernel(content, arch)
    image[0x202:0x206] = b"HdrS"
    image[0x248:0x250] = (0).to_bytes(4, "little") + (64).to_bytes(4, "little")
    for magic in (b"\x02\x21\x4c\x18", b"\x28\xb5\x2f\xfd", b"\xfd7zX", b"\x1f\x8b\x08\0", b"none"):
        image[0xA00:0xA04] = magic
        image[0xA3C:0xA40] = (1 << 20).to_bytes(4, "little")
        with pytest.raises(GuestSourceBad):
            direct_kernel(bytes(image), "amd64")
