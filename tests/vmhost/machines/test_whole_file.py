"""Who is started by whole_file.py believes to have made a hole in a file, and has not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from vmhost.machines import whole_file

PROGRAM = """
import ctypes, os, sys
fallocate = ctypes.CDLL(None, use_errno=True).fallocate
fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_long, ctypes.c_long]
file = os.open(sys.argv[1], os.O_RDWR)
keep_size, punch_hole = 1, 2
assert fallocate(file, keep_size | punch_hole, 0, 4096) == 0, ctypes.get_errno()
assert fallocate(file, 0, 0, 16384) == 0, ctypes.get_errno()
"""


def is_whole_after(path: Path, *before: str) -> bool:
    path.write_bytes(b"x" * 8192)
    subprocess.run([*before, sys.executable, "-c", PROGRAM, str(path)], check=True, timeout=60)
    assert path.stat().st_size == 16384, "what makes no hole is done"
    return path.read_bytes()[:8192] == b"x" * 8192


def test_a_hole_is_none(tmp_path: Path) -> None:
    assert is_whole_after(tmp_path / "file", sys.executable, "-I", "-S", whole_file.__file__)
    assert not is_whole_after(tmp_path / "file"), "this file system has no holes"
