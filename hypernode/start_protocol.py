"""What is said to a daemon's starter (cli/starter.py) at its socket, which forks a process for each connection.

→  kind, bytes that follow, arguments, variables, umask; with descriptors
   boot: CODE, arguments and environment as NUL-terminated strings; streams, directory (cli/warm.py)
   keep: what a keeper is given at its start, nothing else counted; its report, its log (containers/launch.py)
←  process id of who does it, 0 if nobody does
←  of a boot, its exit status: one byte
"""

from __future__ import annotations

import os
import struct

TYPE_CHECKING = False  # typing's takes 5 ms to import
if TYPE_CHECKING:
    from typing import Final

HEAD: Final = struct.Struct("=IIIII")
PID: Final = struct.Struct("=i")
BOOT: Final = 0
KEEP: Final = 1
DESCRIPTORS: Final = {BOOT: 4, KEEP: 2}
REQUEST_BYTES_MAX: Final = 4 << 20
"""Linux allows less for a process's arguments and environment than 4 MiB, unless its stack is unusual."""
_FILE: Final = os.stat(__file__)
CODE: Final = f"{os.path.abspath(__file__)} {_FILE.st_ino} {_FILE.st_mtime_ns}"
"""Which installation of ours this process has loaded. One that was upgraded since is another."""
ANSWER_SECONDS: Final = 10.0
