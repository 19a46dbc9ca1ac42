"""The guest's half of the agent, as files for a guest: Lua for LuaJIT, which Debian has for all our architectures."""

from __future__ import annotations

from pathlib import Path
from typing import Final

FILES: Final = Path(__file__).parent / "guest"
"""A tree to lay over a guest's own. It needs busybox at /bin/busybox too, for tar."""
PACKAGE: Final = "luajit"
INTERPRETER: Final = "/usr/bin/luajit"
PROGRAM: Final = "/usr/sbin/hyper-agent"
"""Its one argument is the port's device. It is to be started again whenever it ends."""
