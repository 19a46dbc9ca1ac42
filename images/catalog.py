"""The image versions of a log, numbered and named.

Versions are ordered by causality (an entry after all that it links, ties by entry id), so every replica that holds the
same entries gives them the same numbers, in whatever order they arrived. Entries that are not image versions are passed
over, and so are those of another kind: who may only write traces or tags does not publish. An entry that claims to be
one and is not valid keeps its number, so that it hurts nobody who does not ask for it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from hyperlog.entry import Entry, Kind
from hyperlog.errors import HyperError
from hyperlog.ids import EntryId, LogKey, to_text
from hyperlog.link import printable
from hyperlog.log import Log
from images.errors import AmbiguousVersion, ImageTooNew, NoSuchVersion, VersionCorrupt
from images.limits import VERSION_PREFIX_CHARACTERS_MIN
from images.tags import decode_tag
from images.version import ImageVersion, decode_version, is_version

_NUMBER: Final = re.compile(r"[vV]?([0-9]{1,9})")


@dataclass(frozen=True, slots=True)
class Published:
    """A version as it stands in its log; `number` counts from 1. `version` is None when `error` says why."""

    number: int
    entry: EntryId
    version: ImageVersion | None
    error: HyperError | None


@dataclass(frozen=True, slots=True)
class Resolved:
    """What a version text means."""

    number: int
    entry: EntryId
    version: ImageVersion


class Catalog:
    """A snapshot of the versions in a log."""

    def __init__(
        self, key: LogKey, versions: Sequence[Published], tags: Mapping[str, EntryId | None] | None = None
    ) -> None:
        """`tags`: what tag entries say last, None for a name that was taken away."""
        self.key = key
        self.versions = tuple(versions)
        self._tags = dict(tags or {})

    @classmethod
    def of(cls, log: Log) -> Catalog:
        """The versions that `log` holds at this moment."""
        entries = _causal([entry for _, entry in log.changes()])
        claimed = (entry for entry in entries if entry.kind is Kind.VALUE and is_version(entry.value))
        tags = {tag.name: tag.version for tag in map(decode_tag, (entry.value for entry in entries)) if tag}
        return cls(log.key, [_published(number, entry) for number, entry in enumerate(claimed, 1)], tags)

    @property
    def tags(self) -> dict[str, int]:
        """The number of the version that each tag means."""
        numbers = {each.entry: each.number for each in self.versions}
        own = {each.version.tag: each.number for each in self.versions if each.version and each.version.tag}
        found = own | {name: numbers[entry] for name, entry in self._tags.items() if entry in numbers}
        return {name: number for name, number in found.items() if self._tags.get(name, b"") is not None}

    def resolve(self, version: str | None = None) -> Resolved:
        """The version that `version` means: a number (`3`, `v3`), a tag, the beginning of an entry id, or the latest.

        Of several that were given one tag the latest is meant. Raises `NoSuchVersion`, `AmbiguousVersion`, and what is
        wrong with a version that is there but cannot be used.
        """
        found = self._find(version)
        if found.version is None:
            assert found.error is not None
            raise type(found.error)(found.error.message, found.error.hint)
        return Resolved(found.number, found.entry, found.version)

    def _find(self, text: str | None) -> Published:
        if not self.versions:
            raise NoSuchVersion("the log has no image version", "ask its author, or try again when a peer is there")
        if text is None:
            return self.versions[-1]
        number = _NUMBER.fullmatch(text)
        if number is not None and 1 <= int(number[1]) <= len(self.versions):
            return self.versions[int(number[1]) - 1]
        if number is None:
            tagged = self.tags.get(text)
            if tagged is not None:
                return self.versions[tagged - 1]
        named = [each for each in self.versions if to_text(each.entry).startswith(text)]
        if len(text) < VERSION_PREFIX_CHARACTERS_MIN or not named:
            raise NoSuchVersion(f"the log has no version {printable(text)}", f"it has v1 to v{len(self.versions)}")
        if len(named) > 1:
            raise AmbiguousVersion(f"{printable(text)} begins the ids of {len(named)} versions", "give more of the id")
        return named[0]


def _published(number: int, entry: Entry) -> Published:
    try:
        return Published(number, entry.id, decode_version(entry.value), None)
    except (VersionCorrupt, ImageTooNew) as error:
        return Published(number, entry.id, None, error)


def _causal(entries: Sequence[Entry]) -> list[Entry]:
    """`entries`, in any order that has links first, in the order that is the same everywhere."""
    generations: dict[EntryId, int] = {}
    for entry in entries:
        before = [generations.get(link, 0) for link in entry.links]
        generations[entry.id] = 1 + max(before, default=0)
    return sorted(entries, key=lambda entry: (generations[entry.id], entry.id))
