"""The keys that leave an attached terminal: Ctrl-P Ctrl-Q, as Docker's. Pure."""

from __future__ import annotations

from typing import Final

_FIRST: Final = b"\x10"
_SECOND: Final = b"\x11"


class DetachKeys:
    """Looks through what is typed."""

    def __init__(self) -> None:
        self._holds_first = False

    def take(self, data: bytes) -> tuple[bytes, bool]:
        """What is to be handed on, and whether the keys were among it (nothing after them is handed on).

        A first key at the very end is held back until the next is known.
        """
        if self._holds_first:
            data, self._holds_first = _FIRST + data, False
        before, found, _ = data.partition(_FIRST + _SECOND)
        if found:
            return before, True
        if data.endswith(_FIRST):
            self._holds_first = True
            return data[:-1], False
        return data, False
