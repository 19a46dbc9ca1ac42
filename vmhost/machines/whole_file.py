"""Start a program for which a hole made in a file is none: `python whole_file.py PROGRAM ARGUMENT…`.

QEMU gives back memory that its guest does not use any more, as the balloon tells it. Where that memory is a private
mapping of a file, it does two things: it makes a hole in the file (fallocate), then drops its own pages (madvise). The
file is that which all machines of a template begin from (template.py), so the first must not happen; but the second
only comes when the first went well. So that call is answered as if it had, by a seccomp filter, which nothing takes off
again. No other call is touched.

After that the guest finds there what the template had, instead of zeros. What a guest gave away has no content until it
writes it again (virtio's driver requirements for the balloon), so that makes no difference to it.

It runs before QEMU in the same process, 20 ms long, and so imports nothing of ours.
"""

from __future__ import annotations

import ctypes
import os
import struct
import sys

# linux/audit.h's name of the machine's calls, and the number of fallocate among them
_CALLS = {"x86_64": (0xC000003E, 285), "aarch64": (0xC00000B7, 47)}
_PUNCH_HOLE = 0x02  # linux/falloc.h
_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 38, 22, 2
_LOAD, _IF_EQUAL, _IF_SET, _RETURN = 0x20, 0x15, 0x45, 0x06  # linux/bpf_common.h: LD|W|ABS, JMP|JEQ, JMP|JSET, RET
_ALLOW, _ANSWER_ZERO = 0x7FFF0000, 0x00050000  # SECCOMP_RET_ALLOW; SECCOMP_RET_ERRNO with no error
_NUMBER, _ARCH, _MODE = 0, 4, 24  # where struct seccomp_data has them; the second argument's lower half


def make_filter(machine: str) -> bytes:
    """The filter as an array of struct sock_filter, for a kernel's `machine` (uname -m). Pure."""
    arch, fallocate = _CALLS[machine]
    rows = (
        (_LOAD, 0, 0, _ARCH),
        (_IF_EQUAL, 0, 5, arch),
        (_LOAD, 0, 0, _NUMBER),
        (_IF_EQUAL, 0, 3, fallocate),
        (_LOAD, 0, 0, _MODE),
        (_IF_SET, 0, 1, _PUNCH_HOLE),
        (_RETURN, 0, 0, _ANSWER_ZERO),
        (_RETURN, 0, 0, _ALLOW),
    )
    return b"".join(struct.pack("=HBBI", *row) for row in rows)


def _install() -> None:
    code = make_filter(os.uname().machine)
    rows = ctypes.create_string_buffer(code, len(code))
    program = ctypes.create_string_buffer(struct.pack("@HP", len(code) // 8, ctypes.addressof(rows)))
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl.argtypes = [ctypes.c_int, *[ctypes.c_ulong] * 4]
    failed = libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    if failed or libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.addressof(program), 0, 0):
        raise OSError(ctypes.get_errno(), "no seccomp filter could be installed")


if __name__ == "__main__":
    _install()
    os.execvp(sys.argv[1], sys.argv[1:])
