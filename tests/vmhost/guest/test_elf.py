"""What ELF files say of themselves; damaged ones are an error and nothing else."""

from __future__ import annotations

import random
import re
import subprocess
import sys
from pathlib import Path

import pytest

from vmhost.guest import elf


def _programs() -> list[Path]:
    return [Path(path).resolve() for path in ("/bin/ls", "/bin/mount", sys.executable)]


@pytest.mark.parametrize("path", _programs(), ids=lambda path: path.name)
def test_needs_are_those_that_the_loader_sees(path: Path) -> None:
    needs = elf.needs(path.read_bytes())
    assert needs.interpreter is not None
    assert "libc.so.6" in needs.libraries
    listed = subprocess.run([needs.interpreter, "--list", str(path)], capture_output=True, text=True, check=True).stdout
    assert set(needs.libraries) <= set(re.findall(r"^\s*(\S+)", listed, re.MULTILINE))


def test_a_static_program_needs_nothing() -> None:
    busybox = Path("/bin/busybox")
    if not busybox.exists():
        pytest.skip("busybox")
    assert elf.needs(busybox.read_bytes()) == elf.Needs((), None)


@pytest.mark.parametrize("content", [b"", b"#!/bin/sh\n", b"\x7fELF", b"\x7fELF\x01\x01" + bytes(100)])
def test_what_is_no_elf_file_is_refused(content: bytes) -> None:
    for read in (elf.needs, elf.module_info):
        with pytest.raises(elf.BadElf):
            read(content)


def test_damaged_files_end_in_one_error() -> None:
    whole = Path("/bin/ls").resolve().read_bytes()
    random_bits = random.Random(7)
    for _ in range(500):
        damaged = bytearray(whole)
        for _ in range(random_bits.randint(1, 8)):
            damaged[random_bits.randrange(0, 1200)] = random_bits.randrange(256)
        damaged = damaged[: random_bits.randrange(64, len(damaged))]
        try:
            elf.needs(bytes(damaged))
        except elf.BadElf:
            continue


def test_a_module_tells_what_it_depends_on() -> None:
    # One section of strings, as the kernel's modules have it.
    names = b"\0.modinfo\0.shstrtab\0"
    words = b"depends=virtio,virtio_ring\0alias=one\0alias=two\0license=GPL\0"
    header = bytearray(64)
    header[:6] = b"\x7fELF\x02\x01"
    table = 64 + len(names) + len(words)
    header[40:48] = table.to_bytes(8, "little")
    header[58:64] = b"\x40\0\x02\0\x01\0"

    def section(name: int, offset: int, size: int) -> bytes:
        entry = bytearray(64)
        entry[0:4] = name.to_bytes(4, "little")
        entry[24:40] = offset.to_bytes(8, "little") + size.to_bytes(8, "little")
        return bytes(entry)

    module = bytes(header) + names + words + section(1, 64 + len(names), len(words)) + section(10, 64, len(names))
    info = elf.module_info(module)
    assert (info["depends"], info["alias"]) == (["virtio,virtio_ring"], ["one", "two"])
