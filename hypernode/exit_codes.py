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

EXIT_BY_CODE: Final = {"not_found": 3, "refused": 4, "conflict": 5, "unavailable": 6, "corrupt": 7}


def exit_status(code: str) -> int:
    """The exit status for an error code; an unknown code is a bug."""
    return EXIT_BY_CODE.get(code, EXIT_BUG)
