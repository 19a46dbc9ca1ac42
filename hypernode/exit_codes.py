"""Failure → exit status, in one table. Documented in `hypernode --help`."""

from __future__ import annotations

from typing import Final

EXIT_OK: Final = 0
EXIT_BUG: Final = 1
EXIT_USAGE: Final = 2
EXIT_UNWELL: Final = 8
"""`doctor` found something that does not work."""

EXIT_BOOT_FAILED: Final = 125
"""`boot` passes the container's status through, so its own failures get one that programs do not use (as Docker)."""
EXIT_NOT_EXECUTABLE: Final = 126
EXIT_NOT_FOUND_INSIDE: Final = 127
EXIT_INTERRUPTED: Final = 130
EXIT_KILLED: Final = 137
"""128 + SIGKILL, as shells say it: of a container that was ended without a word of its own."""

EXIT_BY_CODE: Final = {"not_found": 3, "refused": 4, "conflict": 5, "unavailable": 6, "corrupt": 7}


def exit_status(code: str) -> int:
    """The exit status for an error code; an unknown code is a bug."""
    return EXIT_BY_CODE.get(code, EXIT_BUG)


EXIT_MEANINGS: Final = {
    "0": "Done.",
    "1": "A bug in hypernode, or nobody reads its output any more.",
    "2": "Wrong usage.",
    "3": "Not found.",
    "4": "Refused: not allowed, or badly formed; also what a configuration file says.",
    "5": "Conflict: somebody else has it, or something changed; look again.",
    "6": "Unavailable now: no peer, no network, a full disk; try again later.",
    "7": "Corrupt data: it does not match its name or signature.",
    "8": "`doctor` found something that does not work.",
    "125": "Of `boot`: hypernode itself failed; other statuses are those of the command in the container.",
    "126": "Of `boot`: the command in the container cannot be executed.",
    "127": "Of `boot`: there is no such command in the container.",
    "130": "Interrupted; 128 and the number of the signal in general.",
}
"""What each status says, for people."""
