"""Our terminal, and a pseudo terminal in between it and the container.

The pseudo terminal lets us see when the first byte comes out, and leaves nobody but us with our terminal: a program
inside cannot push keystrokes into it (TIOCSTI) or leave it in another mode.
"""

from __future__ import annotations

import fcntl
import os
import struct
import termios
import tty
from collections.abc import Iterator
from contextlib import contextmanager, suppress


def is_terminal(stdin: int, stdout: int) -> bool:
    """Whether both ends of an interactive session are terminals."""
    return os.isatty(stdin) and os.isatty(stdout)


@contextmanager
def raw_mode(descriptor: int) -> Iterator[None]:
    """Every key goes through as it is, for the block. Restored however it is left; SIGKILL alone is stronger."""
    before = termios.tcgetattr(descriptor)
    tty.setraw(descriptor, termios.TCSANOW)
    try:
        yield
    finally:
        with suppress(termios.error):  # the terminal may have hung up
            termios.tcsetattr(descriptor, termios.TCSANOW, before)


class Pty:
    """A new pseudo terminal, as large as the terminal `like`: `ours` to read and write, `theirs` for a child."""

    def __init__(self, like: int) -> None:
        self.ours, self.theirs = os.openpty()
        copy_size(like, self.ours)

    def resize(self, rows: int, columns: int) -> None:
        with suppress(OSError):
            fcntl.ioctl(self.ours, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def close_theirs(self) -> None:
        """Once the child has it: only then does reading `ours` end with the child."""
        if self.theirs >= 0:
            descriptor, self.theirs = self.theirs, -1
            os.close(descriptor)

    def close(self) -> None:
        self.close_theirs()
        if self.ours >= 0:
            descriptor, self.ours = self.ours, -1
            os.close(descriptor)


def size_of(descriptor: int) -> tuple[int, int]:
    """Rows and columns of the terminal; 0, 0 if it does not say."""
    try:
        size = struct.unpack("HHHH", fcntl.ioctl(descriptor, termios.TIOCGWINSZ, bytes(8)))
    except OSError:
        return 0, 0
    return int(size[0]), int(size[1])


def copy_size(source: int, target: int) -> None:
    """Give `target` the rows and columns of `source`, unless that has none."""
    with suppress(OSError):
        size = fcntl.ioctl(source, termios.TIOCGWINSZ, bytes(8))
        if struct.unpack("HHHH", size)[:2] != (0, 0):
            fcntl.ioctl(target, termios.TIOCSWINSZ, size)
