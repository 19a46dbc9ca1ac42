"""Tags: the value of a log entry that gives a version a name, or takes a name away.

A tag points at an entry of the same log and publishes nothing, so tagging an old version does not make it the newest.
Of several tag entries with one name the last in causal order holds, on every replica the same (catalog.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from hyperlog.encoding import decode, encode
from hyperlog.errors import Corrupt
from hyperlog.ids import EntryId
from hyperlog.limits import KEY_BYTES
from images.version import valid_tag

FORMAT: Final = 1
_KIND_KEY: Final = "image_tag"
_VALUE_BYTES_MAX: Final = 1024


@dataclass(frozen=True, slots=True)
class Tag:
    """`name` means the version published by entry `version`, or nothing any more (None)."""

    name: str
    version: EntryId | None

    def encode(self) -> bytes:
        """The entry's value; the name is valid (`version.valid_tag`)."""
        assert valid_tag(self.name)
        return encode({_KIND_KEY: FORMAT, "tag": self.name, "version": self.version})


def decode_tag(value: bytes) -> Tag | None:
    """The tag that an entry's value spells; None for anything else, tags of later formats among it."""
    if len(value) > _VALUE_BYTES_MAX:
        return None
    try:
        record = decode(value, bytes_max=_VALUE_BYTES_MAX)
    except Corrupt:
        return None
    match record:
        case {"image_tag": int(form), "tag": str(name), "version": bytes() | None as version, **rest} if not rest:
            if form != FORMAT or isinstance(form, bool) or not valid_tag(name):
                return None
            if version is None:
                return Tag(name, None)
            return Tag(name, EntryId(version)) if len(version) == KEY_BYTES else None
    return None
