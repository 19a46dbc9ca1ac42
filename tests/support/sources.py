"""The files of this checkout, as the repository tests see them."""

from __future__ import annotations

import subprocess
from pathlib import Path

TOP = Path(__file__).resolve().parents[2]
PACKAGES = ("hyperlog", "images", "swarm", "vmhost", "hypernode")


def package_files() -> list[str]:
    """Every Python file of the five packages, relative to the top."""
    return sorted(
        path.relative_to(TOP).as_posix()
        for package in PACKAGES
        for path in (TOP / package).rglob("*.py")
        if "__pycache__" not in path.parts
    )


def python_files() -> list[str]:
    """Every Python file: packages, tests, benchmarks."""
    others = (path for folder in ("tests", "bench") for path in (TOP / folder).rglob("*.py"))
    return sorted([*package_files(), *(p.relative_to(TOP).as_posix() for p in others if "__pycache__" not in p.parts)])


def all_files() -> list[str]:
    """Every file that is, or is about to be, committed: tracked, or neither tracked nor ignored."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=TOP,
        check=True,
        capture_output=True,
    )
    names = (name.decode() for name in listed.stdout.split(b"\0") if name)
    return sorted(name for name in names if (TOP / name).is_file())
