"""What a guest is told on its kernel command line. Pure.

As HyperOS read them: `host=` its name, `sshkey="…"` the key that may log in as root. Ours begin with `hyper.`: words
with a dot the kernel keeps to itself instead of handing them to PID 1.
"""

from __future__ import annotations

import re
from typing import Final

from hyperlog.errors import Refused

_HOST: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?")
_KEY: Final = re.compile(r"[a-z0-9@.-]+ [A-Za-z0-9+/]{32,}={0,3}( [ !#-~]*)?")


def guest_words(host: str | None, ssh_key: str | None) -> tuple[str, ...]:
    """The words for a host name and an ssh public key (one line, as in a .pub file). Raises `Refused` on odd ones."""
    words = []
    if host is not None:
        if not _HOST.fullmatch(host):
            raise Refused(f"{host!r} is no host name", hint="letters, digits and hyphens, at most 63")
        words.append(f"host={host}")
    if ssh_key is not None:
        if not _KEY.fullmatch(ssh_key.strip()):
            raise Refused("that is no ssh public key", hint="one line, as ssh-keygen writes into a .pub file")
        words.append(f'sshkey="{ssh_key.strip()}"')
    return tuple(words)
