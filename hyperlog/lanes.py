"""How urgent a block is: whoever asks for one says so, and everything between them and the disk keeps to it.

A lane is a promise about order, not about speed: whatever waits in a lane goes before all that waits in a later one,
at the end that asks and at the end that serves (the lane travels with the request). A block that is wanted in several
lanes at once is wanted in the first of them.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final


class Lane(IntEnum):
    """Smaller goes first."""

    MISS = 0
    """Somebody is blocked until the block is here: a container's read, a manifest."""
    PREFETCH = 1
    """It will be needed in a moment, as recorded boots say."""
    BACKGROUND = 2
    """It is wanted some time: pulls, exports, completing an image that runs already."""


LANES: Final = tuple(Lane)
"""All of them, most urgent first."""
