"""How far the kernel reads ahead on one mount, set while it is mounted.

The kernel keeps that per backing device: of a mount on block devices under the device's number; of one on files under
a name of its own (`erofs-7`) that nothing leads to from the mount. So what appeared while it was mounted is taken for
it, if that is one thing only; otherwise the mount keeps the kernel's own setting, which costs time or bytes, no more.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

_BACKING: Final = "/sys/class/bdi"
_log: Final = logging.getLogger(__name__)
_mounting: Final = threading.Lock()


class ReadAhead:
    """What a mount that is about to be made shall read ahead, in KiB (0: single pages); `None`: the kernel's choice."""

    def __init__(self, kib: int | None = None) -> None:
        self._kib = kib
        self._backing: str | None = None

    @contextmanager
    def mounting(self) -> Iterator[None]:
        """Around mount(2), in the thread that calls it; then the setting is in force, as far as this host lets us."""
        with _mounting:
            before = _backings()
            yield
            new = [name for name in _backings() - before if name.startswith("erofs-")]
        if len(new) == 1:
            self._backing = new[0]
            if self._kib is not None:
                self.set(self._kib)

    def set(self, kib: int) -> None:
        """From here on. Never waits."""
        self._kib = kib
        if self._backing is None:
            return
        try:
            with open(f"{_BACKING}/{self._backing}/read_ahead_kb", "w", encoding="ascii") as setting:
                setting.write(str(kib))
        except OSError as error:
            _log.debug("cannot set the read-ahead of %s: %s", self._backing, error)


@contextmanager
def single_pages(path: str) -> Iterator[None]:
    """Whoever opens the file `path` in here reads single pages of it whenever that is not past the cache."""
    device = os.stat(path).st_dev
    setting = f"{_BACKING}/{os.major(device)}:{os.minor(device)}/read_ahead_kb"
    try:
        with open(setting, "r+", encoding="ascii") as file:
            before = file.read()
            file.write("0")
    except OSError as error:
        _log.debug("cannot set the read-ahead of %s: %s", path, error)
        yield
        return
    try:
        yield
    finally:
        with open(setting, "w", encoding="ascii") as file:
            file.write(before)


def _backings() -> set[str]:
    try:
        return set(os.listdir(_BACKING))
    except OSError:
        return set()
