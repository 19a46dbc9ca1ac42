"""Whether KVM really runs guests here, found out by running one.

/dev/kvm that opens says little: there are hosts (nested ones above all) where some guest code runs and the first
exception ends in an internal error, or nowhere. So a payload of 64-bit code goes through what a kernel needs at its
start (control registers, EFER, swapgs, descriptor tables, an exception and its return, cpuid) and says after each step
that it got there. It runs in a process of its own, which is killed at the deadline: KVM_RUN may never return.

A pass is a reason to try, no proof: a machine under KVM is watched besides (`qemu.py`). On other architectures than
x86-64 only the device is tried.

The payload, assembled for address 0x1000 (each step ends with `mov $N,%al; out %al,$0xf4`):

    1  64-bit code runs            5  lgdt, lidt, lretq to a reloaded code segment
    2  cr3, cr4 read and written   6  int3 has come through the IDT, 7 and iretq back from it
    3  EFER by rdmsr, wrmsr        8  cpuid
    4  GS base, swapgs          0x2a  invlpg, wbinvd, clts, cr0
"""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
import struct
import subprocess
import sys
from typing import Final

from vmhost.machines import limits

_LAST_STEP: Final = 0x2A
_LOAD_ADDRESS: Final = 0x1000
_TABLES_ADDRESS: Final = 0x10000
_MEMORY_BYTES: Final = 0x200000
_STACK_ADDRESS: Final = 0x8000
_CODE: Final = bytes.fromhex(
    "b001e6f40f20e00f22e00f20d80f22d8b002e6f4b9800000c00f320f30b003e6f4b9010100c031c031d20f300f01f8b004e6f40f01159e0000000f01"
    "1da1020000b8100000008ed08ed86a08488d05030000005048cbb005e6f4488d0557000000488d3d7a0000004883c73066890766c74702080066c747"
    "04008e48c1e8106689470648c1e810894708c7470c00000000ccb007e6f4b80100000031c90fa2b008e6f40f013c240f090f060f20c00f22c0b02ae6"
    "f4f4ebfeb006e6f448cf66900000000000000000ffff0000009baf00ffff00000093cf001700c0100000000000000000"
)
_TABLE_REGISTER: Final = bytes.fromhex("ff01e210000000000000")
_PAYLOAD: Final = _CODE.ljust(748 - len(_TABLE_REGISTER), b"\0") + _TABLE_REGISTER

_CREATE_VM: Final = 0xAE01
_SET_TSS_ADDR: Final = 0xAE47
_SET_USER_MEMORY_REGION: Final = 0x4020AE46
_GET_SUPPORTED_CPUID: Final = 0xC008AE05
_SET_CPUID2: Final = 0x4008AE90
_CREATE_VCPU: Final = 0xAE41
_GET_VCPU_MMAP_SIZE: Final = 0xAE04
_GET_SREGS: Final = 0x8138AE83
_SET_SREGS: Final = 0x4138AE84
_SET_REGS: Final = 0x4090AE82
_RUN: Final = 0xAE80
_EXIT_IO: Final = 2


def probe_kvm() -> str | None:
    """None if the payload ran to its end, else what went wrong. Blocks, at most `PROBE_SECONDS`."""
    if not os.path.exists("/dev/kvm"):
        return "there is no /dev/kvm"
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return "/dev/kvm may not be opened"
    if os.uname().machine != "x86_64":
        return None
    path = os.pathsep.join(filter(None, sys.path))
    trial = [sys.executable, "-P", "-m", "vmhost.machines.kvm_probe"]
    try:
        done = subprocess.run(
            trial,
            env={**os.environ, "PYTHONPATH": path},
            capture_output=True,
            timeout=limits.PROBE_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return "a guest under KVM does not come to an end"
    if done.returncode:
        return done.stdout.decode("utf-8", "replace").strip() or "the trial of KVM was killed"
    return None


def _run_payload() -> str | None:
    device = os.open("/dev/kvm", os.O_RDWR | os.O_CLOEXEC)
    machine = fcntl.ioctl(device, _CREATE_VM, 0)
    # Directly: fcntl.ioctl does not take an address of more than 31 bits.
    ctypes.CDLL(None, use_errno=True).ioctl(machine, ctypes.c_ulong(_SET_TSS_ADDR), ctypes.c_ulong(0xFFFBD000))
    memory = mmap.mmap(-1, _MEMORY_BYTES)
    memory[_LOAD_ADDRESS : _LOAD_ADDRESS + len(_PAYLOAD)] = _PAYLOAD
    # One page of 2 MiB, mapped to itself.
    for place, entry in enumerate((_TABLES_ADDRESS + 0x1003, _TABLES_ADDRESS + 0x2003, 0x83)):
        struct.pack_into("<Q", memory, _TABLES_ADDRESS + place * 0x1000, entry)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    fcntl.ioctl(machine, _SET_USER_MEMORY_REGION, struct.pack("<IIQQQ", 0, 0, 0, _MEMORY_BYTES, address))
    processor = fcntl.ioctl(machine, _CREATE_VCPU, 0)
    run = mmap.mmap(processor, fcntl.ioctl(device, _GET_VCPU_MMAP_SIZE, 0))
    _set_up(device, processor)
    step = 0
    while step != _LAST_STEP:
        fcntl.ioctl(processor, _RUN, 0)
        (reason,) = struct.unpack_from("<I", run, 8)
        if reason != _EXIT_IO:
            return f"KVM fails after step {step} of its trial (exit reason {reason})"
        *_, offset = struct.unpack_from("<BBHIQ", run, 32)
        step = run[offset]
    return None


def _set_up(device: int, processor: int) -> None:
    """Long mode with flat segments, as a kernel's 64-bit entry finds it."""
    features = bytearray(struct.pack("<II", 100, 0) + bytes(100 * 40))
    fcntl.ioctl(device, _GET_SUPPORTED_CPUID, features)
    fcntl.ioctl(processor, _SET_CPUID2, features)
    special = bytearray(312)
    fcntl.ioctl(processor, _GET_SREGS, special)
    for place, (selector, kind, is_code) in enumerate([(8, 11, 1), *[(16, 3, 0)] * 5]):
        fields = (0, 0xFFFFFFFF, selector, kind, 1, 0, 1 - is_code, 1, is_code, 1, 0, 0, 0)
        struct.pack_into("<QIHBBBBBBBBBB", special, 24 * place, *fields)
    # cr0 (paging, protection), cr2, cr3, cr4 (PAE, SSE), cr8, EFER (long mode, no-execute)
    struct.pack_into("<QQQQQQ", special, 24 * 8 + 16 * 2, 0x80050033, 0, _TABLES_ADDRESS, 0x620, 0, 0xD00)
    fcntl.ioctl(processor, _SET_SREGS, bytes(special))
    general = bytearray(144)
    struct.pack_into("<Q", general, 48, _STACK_ADDRESS)
    struct.pack_into("<QQ", general, 128, _LOAD_ADDRESS, 2)
    fcntl.ioctl(processor, _SET_REGS, bytes(general))


def main() -> int:
    """The trial, in this process: its exit status, and on standard output what went wrong."""
    try:
        problem = _run_payload()
    except OSError as error:
        problem = f"KVM refuses: {error.strerror}"
    if problem is not None:
        os.write(1, problem.encode())
    return problem is not None


if __name__ == "__main__":
    sys.exit(main())
