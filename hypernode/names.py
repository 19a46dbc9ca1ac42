"""What images here are called, in a small file beside the store, so that completion needs no node and no store.

Written after requests that are about an image, when it changed; losable without harm.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Sequence
from typing import Final

_FILE: Final = "names.json"
_BYTES_MAX: Final = 1 << 20


def remember_names(home: str, images: Sequence[tuple[str, str | None]]) -> None:
    """Keep (link, name) of each image. Says nothing when the disk is full: completion then knows less."""
    if read_names(home) == list(images):
        return
    path = os.path.join(home, _FILE)
    with contextlib.suppress(OSError):
        descriptor = os.open(f"{path}.new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with open(descriptor, "w") as file:
            json.dump(images, file)
        os.replace(f"{path}.new", path)


def read_names(home: str) -> list[tuple[str, str | None]]:
    """(link, name) of each image that was here when a node last did something; empty for a file that is none."""
    try:
        with open(os.path.join(home, _FILE), "rb") as file:
            found = json.loads(file.read(_BYTES_MAX))
        return [(str(link), None if name is None else str(name)) for link, name in found]
    except (OSError, ValueError, TypeError, RecursionError):
        return []
