"""What takes long to make and never changes, made once and kept under ~/.cache/hypernode-tests."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path


def kept(recipe: str, build: Callable[[Path], None]) -> Path:
    """What `build` made at the path it was given, once for each recipe; takes its time only the first time."""
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hypernode-tests"
    place = caches / hashlib.sha256(recipe.encode()).hexdigest()[:16]
    if not place.exists():
        caches.mkdir(parents=True, exist_ok=True)
        with open(caches / f"{place.name}.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # tests of another process may be making the same
            if not place.exists():
                _build_at(place, build)
    return place / "root"


def _build_at(place: Path, build: Callable[[Path], None]) -> None:
    building = Path(tempfile.mkdtemp(prefix="building-", dir=place.parent))
    try:
        build(building / "root")
        os.rename(building, place)
    finally:
        shutil.rmtree(building, ignore_errors=True)
