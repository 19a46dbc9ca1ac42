"""The token of a remote mount by TCP: where it comes from. Never a command line, which every user can read."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from hyperlog.errors import NotFound, Refused
from hyperlog.keys import write_secret
from hypernode.remote.limits import TOKEN_CHARACTERS_MAX, TOKEN_CHARACTERS_MIN

ENVIRONMENT: Final = "HYPERNODE_TOKEN"


def find_token(environment: Mapping[str, str], file: Path | None) -> str | None:
    """The token in `file`, else of the environment (HYPERNODE_TOKEN), else None. Raises `NotFound`, `Refused`."""
    if file is None:
        text = environment.get(ENVIRONMENT)
        return None if text is None else check_token(text.strip())
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise NotFound(f"there is no token file {file}", "`serve-mounts --listen` makes one; copy it here") from None
    except OSError as error:
        raise Refused(f"the token file {file} cannot be read: {error.strerror}") from None
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_mode & 0o077:
            raise Refused(f"the token file {file} can be read by others", f"chmod 600 {file}")
        text = os.read(descriptor, 4 * TOKEN_CHARACTERS_MAX).decode("utf-8", "replace")
    finally:
        os.close(descriptor)
    return check_token(text.strip())


def make_token(file: Path) -> str:
    """A fresh token, written to `file` (0600). Raises `Refused`, `StoreFull`."""
    token = os.urandom(20).hex()
    try:
        write_secret(file, f"{token}\n".encode())
    except OSError as error:
        raise Refused(f"the token file {file} cannot be written: {error.strerror}") from None
    return token


def check_token(text: str) -> str:
    """`text`, if it can be a token. Raises `Refused`."""
    if not TOKEN_CHARACTERS_MIN <= len(text) <= TOKEN_CHARACTERS_MAX or not text.isprintable():
        raise Refused(
            f"a token has {TOKEN_CHARACTERS_MIN} to {TOKEN_CHARACTERS_MAX} printable characters, and is random",
            "for example: openssl rand -hex 20",
        )
    return text
