"""Standard output and error that cannot be written to: a full disk below a redirection, say.

That what a command prints is lost must be told, in words and by its status. That its notes are lost must not keep it
from what it does, and there is nobody to tell it to. A pipe that nobody reads any more is not meant: commands end then.
"""

from __future__ import annotations

import io
import os
import sys

TYPE_CHECKING = False  # as in entry.py, which imports this
if TYPE_CHECKING:
    from typing import Any


class _Output(io.FileIO):
    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except BrokenPipeError:
            raise
        except OSError as error:
            from hyperlog.errors import Unavailable

            _lead_nowhere(self.fileno())  # what is still buffered goes there
            raise Unavailable(
                f"standard output cannot be written to: {error.strerror}", "where it leads to, is the disk full?"
            ) from None


class _Notes(io.FileIO):
    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except BrokenPipeError:
            raise
        except OSError:
            return memoryview(data).nbytes


def guard_output() -> None:
    """Put them in the place of `sys.stdout` and `sys.stderr`, which must be there."""
    for name, kind in (("stdout", _Output), ("stderr", _Notes)):
        plain = getattr(sys, name)
        guarded = io.TextIOWrapper(
            io.BufferedWriter(kind(plain.fileno(), "w", closefd=False)),
            encoding=plain.encoding,
            errors=plain.errors,
            line_buffering=plain.line_buffering,
            write_through=plain.write_through,
        )
        setattr(sys, name, guarded)


def _lead_nowhere(descriptor: int) -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, descriptor)
    os.close(nowhere)
