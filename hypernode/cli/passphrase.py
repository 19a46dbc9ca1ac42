"""Where a passphrase comes from: the terminal, a file, or an open descriptor. Never a command line or the environment,
which others can read.
"""

from __future__ import annotations

import getpass
import os
import stat
import termios
from collections.abc import Callable
from pathlib import Path
from typing import Final

import trio

from hyperlog.errors import NotFound, Refused

_BYTES_MAX: Final = 1024
_HINT: Final = "give it with --passphrase-file FILE (mode 0600) or --passphrase-fd N"


async def read_passphrase(file: Path | None, descriptor: int | None, *, is_new: bool) -> str:
    """The passphrase; a new one is asked for twice. Raises `Refused`, `NotFound`."""
    if file is not None and descriptor is not None:
        raise Refused("--passphrase-file and --passphrase-fd were both given", "leave one of them out")
    if file is not None:
        return _first_line(await _waiting(lambda: _read_file(file)))
    if descriptor is not None:
        return _first_line(await _waiting(lambda: _read_descriptor(descriptor)))
    text = await _ask("Passphrase: ")
    if is_new and text != await _ask("Once more: "):
        raise Refused("the two passphrases differ", "try again")
    return text


async def _waiting(read: Callable[[], bytes]) -> bytes:
    return await trio.to_thread.run_sync(read, abandon_on_cancel=True)


async def _ask(prompt: str) -> str:
    try:
        terminal = os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        raise Refused("there is no terminal to ask for the passphrase", _HINT) from None
    try:
        before = termios.tcgetattr(terminal)
        try:
            return await trio.to_thread.run_sync(getpass.getpass, prompt, abandon_on_cancel=True)
        finally:
            termios.tcsetattr(terminal, termios.TCSADRAIN, before)  # Ctrl-C leaves getpass, and no terminal mute
    finally:
        os.close(terminal)


def _read_file(file: Path) -> bytes:
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise NotFound(f"there is no passphrase file {file}", _HINT) from None
    except OSError as error:
        raise Refused(f"the passphrase file {file} cannot be read: {error.strerror}", _HINT) from None
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise Refused(f"the passphrase file {file} is no regular file", "--passphrase-fd takes a pipe")
        if status.st_mode & 0o077:
            raise Refused(f"the passphrase file {file} can be read by others", f"chmod 600 {file}")
        return os.read(descriptor, _BYTES_MAX + 1)
    finally:
        os.close(descriptor)


def _read_descriptor(descriptor: int) -> bytes:
    found = b""
    try:
        while len(found) <= _BYTES_MAX and b"\n" not in found:
            part = os.read(descriptor, _BYTES_MAX)
            if not part:
                break
            found += part
    except OSError as error:
        raise Refused(f"descriptor {descriptor} cannot be read: {error.strerror}", _HINT) from None
    return found


def _first_line(raw: bytes) -> str:
    line = raw.partition(b"\n")[0].removesuffix(b"\r")
    if len(line) > _BYTES_MAX:
        raise Refused(f"the passphrase is longer than {_BYTES_MAX} bytes", "choose a shorter one")
    try:
        return line.decode()
    except UnicodeDecodeError:
        raise Refused("the passphrase is no UTF-8 text", "choose one of letters and digits") from None
