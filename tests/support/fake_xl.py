"""A program that takes xl's commands, and makes no domain: a file `NAME.domain` beside it stands for one.

Every command line goes to `commands`. `create -F` and `restore -F` stay while there is the domain, and say what xl says
when it has gone; for a domain whose kernel has the word `rude` they fail. `console` speaks to terminals only.
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
from pathlib import Path

_HERE = Path(sys.argv[0]).resolve().parent


def install(directory: Path) -> str:
    """A command that is this program; where it is. Its files lie beside it."""
    command = directory / "xl"
    source = Path(__file__).read_text()
    command.write_text(f"#!{sys.executable} -P\n{source}")
    command.chmod(0o755)
    return str(command)


def commands(directory: Path) -> list[list[str]]:
    """What was asked for so far."""
    return [json.loads(line) for line in (directory / "commands").read_text().splitlines()]


def main() -> int:
    with (_HERE / "commands").open("a") as log:
        log.write(json.dumps(sys.argv[1:]) + "\n")
    verb, *arguments = sys.argv[1:]
    if verb in ("create", "restore"):
        return _keep(Path(arguments[1]).read_text())
    domain = _HERE / f"{arguments[verb == 'save']}.domain"  # after -p: it is left paused
    if not domain.exists():
        sys.exit(f"{arguments[0]} is an invalid domain identifier (rc=-6)")
    if verb == "destroy":
        domain.unlink()
    elif verb == "save":
        Path(arguments[2]).write_text("memory")
    elif verb == "console":
        if not (sys.stdin.isatty() and sys.stdout.isatty()):
            return 0
        os.write(1, b"hyper: 0.1 userspace\r\n")
        while domain.exists():
            time.sleep(0.02)
    return 0


def _keep(config: str) -> int:
    if "rude" in config:
        sys.exit("libxl: error: the kernel cannot be read")
    named = re.match('name = "(.*)"', config)
    assert named is not None
    domain = _HERE / f"{named[1]}.domain"
    domain.write_text("")
    while domain.exists() and not domain.read_text():
        time.sleep(0.02)
    if domain.exists():
        code = domain.read_text()
        domain.unlink()
        os.write(2, f"Domain 1 has shut down, reason code {code} 0x{code}\n".encode())
    else:
        os.write(2, b"Domain 1 has been destroyed.\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
