"""A Debian root that boots as a whole system: systemd, D-Bus, and a target that says when it has been reached.

*measured.service* prints a line on the console once the system is up, and powers it off; so a boot of that unit has a
first output and an end. Built once and kept.
"""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Final

from tests.support.cache import kept
from tests.support.debian_root import debootstrap

MEASURED: Final = ("--unit=measured.service", "--show-status=0", "--log-target=null")
"""Arguments of its init: nothing else is printed."""
REACHED: Final = "reached"

_SERVICE: Final = f"""[Unit]
Requires=multi-user.target
After=multi-user.target
[Service]
Type=oneshot
ExecStart=/bin/sh -c 'echo {REACHED} >/dev/console'
ExecStartPost=/bin/systemctl --no-block poweroff
"""


def system_root() -> Path:
    """Its directory; takes half a minute and the network the first time. Raises `OSError`. Read-only for tests."""
    return kept(inspect.getsource(_build) + _SERVICE, _build)


def _build(root: Path) -> None:
    debootstrap(root, "--variant=minbase", "--include=systemd-sysv,dbus")
    (root / "etc/hostname").unlink()  # the name of the machine it was made on; so its own is what it is given
    (root / "etc/systemd/system/measured.service").write_text(_SERVICE)
