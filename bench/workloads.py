"""What bench/coldboot.py starts: images made of packages, each with a command that prints once it has started.

*start*: a Debian root, Python with OpenSSL and SQLite. *nginx*, until a page is served, and *postgres*, until a query
is answered: three layers each (tests/support/real_images.py). *initdb*: a PostgreSQL cluster made in that image.
*python*: NumPy as Debian has it. *scipy*: NumPy and SciPy as pip installs them. *systemd*: a whole system (`-b`), until
multi-user.target is reached.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.support.cache import kept
from tests.support.debian_root import debian_root
from tests.support.real_images import RECIPES, real_image
from tests.support.system_root import MEASURED, REACHED, system_root

_SCIENCE = ("numpy==1.26.4", "scipy==1.13.1")
_SCIENCE_IMPORT = "import numpy, scipy.stats, scipy.linalg; print(float(scipy.linalg.det(numpy.eye(3))))"
_INITDB = (
    'make="/usr/lib/postgresql/15/bin/initdb --no-sync -D /tmp/cluster"; '
    'if [ "$(id -u)" = 0 ]; then su postgres -c "$make" >/dev/null; else $make >/dev/null; fi; echo made'
)
# Where others mount a new /run, there is no place for its socket, which Debian's pg_ctlcluster would look for.
_ANSWER = (
    'manage="/usr/lib/postgresql/15/bin/pg_ctl -s -D /var/lib/postgresql/15/main"; run="$manage -l /tmp/log -o '
    "'-c config_file=/etc/postgresql/15/main/postgresql.conf -c unix_socket_directories=/tmp' start && "
    "psql -h /tmp -Atc 'select 6 * 7' && $manage stop\"; "
    'if [ "$(id -u)" = 0 ]; then exec su postgres -c "$run"; else eval "$run"; fi'
)


@dataclass(frozen=True)
class Workload:
    """`source` is what `share` takes. With one more word `command` does the same, and is another command."""

    source: Callable[[], Path]
    command: tuple[str, ...]
    other: tuple[str, ...]
    """Another start of the same program, whose trace must not be taken for that of `command` with one more word."""
    prints: str | None = None
    """What `command` prints, if that is known beforehand."""
    has_rivals: bool = True
    """Whether others start it without further rights on this host."""
    is_system: bool = False
    """`command` has the arguments of its own init."""

    def words(self, command: Sequence[str]) -> tuple[str, ...]:
        """Options and operands by which `boot` and `trace` start `command`, or `command` with one more word."""
        if self.is_system and command[: len(self.command)] == self.command:
            return ("--system", "--", *command)
        return ("--entrypoint", "", "--", *command)


def _recipe(name: str) -> Workload:
    recipe = RECIPES[name]
    entrypoint = recipe.config.get("config.entrypoint")
    command = (entrypoint, *recipe.command) if entrypoint else recipe.command
    other = (command[0], "-c", "import decimal" if entrypoint else "ls -R /etc")
    return Workload(lambda: real_image(name), command, other, recipe.output)


def _with_science() -> Path:
    return kept("\n".join([str(debian_root()), *_SCIENCE]), _build_science)


def _build_science(root: Path) -> None:
    subprocess.run(["cp", "-a", debian_root(), root], check=True)
    target = root / "usr/local/lib/python3.11/dist-packages"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--only-binary=:all:"]
    subprocess.run([*pip, "--python-version", "3.11", "--target", str(target), *_SCIENCE], check=True)


_PYTHON = "import json,ssl,sqlite3; print(json.dumps([ssl.OPENSSL_VERSION, sqlite3.sqlite_version]))"
WORKLOADS = {
    "start": Workload(debian_root, ("python3", "-c", _PYTHON), ("python3", "-c", "import decimal, asyncio")),
    **{name: _recipe(name) for name in RECIPES},
    "postgres": Workload(
        lambda: real_image("postgres"),
        ("/bin/sh", "-c", _ANSWER),
        ("/bin/sh", "-c", "ls -R /etc"),
        "42\n",
        has_rivals=False,  # in a plain chroot its server does not start
    ),
    "initdb": Workload(
        lambda: real_image("postgres"), ("/bin/sh", "-c", _INITDB), ("/bin/sh", "-c", "ls -R /etc"), "made\n"
    ),
    "scipy": Workload(
        _with_science, ("python3", "-c", _SCIENCE_IMPORT), ("python3", "-c", "import decimal, asyncio"), "1.0\n"
    ),
    "systemd": Workload(
        system_root, MEASURED, ("/bin/sh", "-c", "ls -R /etc"), f"{REACHED}\r\n", has_rivals=False, is_system=True
    ),
}
