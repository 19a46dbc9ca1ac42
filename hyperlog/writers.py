"""Who may write to a log: admissions and dismissals as signed entries, and what follows from them.

The log key is the owner's key when the log is made, and the log's name for ever. System entries change who writes:

    grant(key, rights)      by the owner: `key` may write entries of the kinds that `rights` names
    revoke(key, length)     by the owner: of `key`'s feed only the first `length` entries count, for everybody
    transfer(key)           by the owner: `key` is the owner from here on; the one before may still write
    rotate(key)             by any writer: `key` goes on with the same rights, the feed that says so ends here

Grant, transfer and rotate are *admissions*. A writer's first entry links its admission, and an entry that links a later
one for its writer is under that one from there on. So whether an entry was allowed follows from its own feed and what
it links, never from the order in which things arrived. A reader finds the present owner by walking the owner's feed to
its transfer, then on in the new owner's feed (`Policy.owner`).

Revocation and forks (forks.py) work backwards: each sets a *limit*, the first seq of a feed that no longer counts, and
every replica that learns of it applies it to what it holds already. An admission that lies beyond its writer's limit is
void, and a feed stops counting at its first entry that uses a void admission. Limits only ever fall, so replicas
that know the same system entries and fork proofs agree, in whatever order they learned them. An owner's revocation
cannot undo a transfer that made its signer the owner, and a revoked key is not admitted again: its feed has a hole.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, TypeAlias

from hyperlog.encoding import decode, encode
from hyperlog.entry import Kind
from hyperlog.errors import Corrupt
from hyperlog.ids import EntryId, LogKey, WriterKey
from hyperlog.keys import is_public_key
from hyperlog.limits import FEED_ENTRIES_MAX, KEY_BYTES, LABEL_BYTES_MAX, SYSTEM_VALUE_BYTES_MAX


class Rights(enum.IntFlag):
    """The kinds of entries that a writer may write: bit n for kind n."""

    APPEND = 1 << Kind.VALUE
    OWN = 1 << Kind.SYSTEM
    TAG = 1 << Kind.TAG
    TRACE = 1 << Kind.TRACE
    WRITE = APPEND | TAG | TRACE


@dataclass(frozen=True, slots=True)
class Grant:
    key: WriterKey
    rights: Rights
    label: str = ""
    """For people; says nothing that anything else relies on."""


@dataclass(frozen=True, slots=True)
class Revoke:
    key: WriterKey
    length: int
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Transfer:
    key: WriterKey


@dataclass(frozen=True, slots=True)
class Rotate:
    key: WriterKey


Operation: TypeAlias = Grant | Revoke | Transfer | Rotate


class Statement(NamedTuple):
    """A system entry."""

    writer: WriterKey
    seq: int
    id: EntryId
    operation: Operation


class Admission(NamedTuple):
    """That `key` may write."""

    key: WriterKey
    rights: Rights


Uses: TypeAlias = Mapping[tuple[WriterKey, int], Sequence[EntryId]]
"""(writer, seq) → the admissions of that writer which its entry links."""


@dataclass(frozen=True, slots=True)
class Policy:
    """What the system entries and fork proofs that are known come to."""

    owner: WriterKey
    owner_since: int
    """First seq of the owner's feed that may hold grants."""
    admissions: Mapping[EntryId, Admission]
    limits: Mapping[WriterKey, int]
    """First seq that does not count; feeds not named have no limit."""
    periods: Mapping[WriterKey, Sequence[tuple[int, Rights]]]
    """From which seq on a writer had which rights, as far as its feed is known."""

    def limit(self, writer: WriterKey) -> int:
        return self.limits.get(writer, FEED_ENTRIES_MAX)

    def rights(self, writer: WriterKey, seq: int) -> Rights:
        """What `writer` may write as entry `seq`, by the admissions that its feed used before it."""
        found = Rights(0)
        for since, rights in self.periods.get(writer, ()):
            if since > seq:
                break
            found = rights
        return found

    def open_admission(self, writer: WriterKey) -> EntryId | None:
        """The latest admission of `writer`, which its next entry may have to link."""
        return next((id_ for id_, found in reversed([*self.admissions.items()]) if found.key == writer), None)


_OWNER: Final = Rights.WRITE | Rights.OWN
_NAMES: Final = {Grant: "grant", Revoke: "revoke", Transfer: "transfer", Rotate: "rotate"}


def encode_operation(operation: Operation) -> bytes:
    """The value of a system entry."""
    match operation:
        case Grant(key, rights, label):
            return encode(["grant", key, int(rights), label])
        case Revoke(key, length, reason):
            return encode(["revoke", key, length, reason])
        case Transfer(key) | Rotate(key):
            return encode([_NAMES[type(operation)], key])


def decode_operation(value: bytes) -> Operation:
    """What a system entry says. Raises `Corrupt`, also for an operation that this version does not know."""
    found: Operation | None = None
    match decode(value, bytes_max=SYSTEM_VALUE_BYTES_MAX):
        case [_, _, bool(), _]:
            pass
        case ["grant", bytes(key), int(rights), str(label)] if 0 < rights <= Rights.WRITE and not rights & Rights.OWN:
            if len(label.encode()) <= LABEL_BYTES_MAX:
                found = Grant(WriterKey(key), Rights(rights), label)
        case ["revoke", bytes(key), int(length), str(reason)] if 0 <= length <= FEED_ENTRIES_MAX:
            if len(reason.encode()) <= LABEL_BYTES_MAX:
                found = Revoke(WriterKey(key), length, reason)
        case ["transfer", bytes(key)]:
            found = Transfer(WriterKey(key))
        case ["rotate", bytes(key)]:
            found = Rotate(WriterKey(key))
        case _:
            pass
    if found is None or len(found.key) != KEY_BYTES or not is_public_key(found.key):
        raise Corrupt("system entry that this version does not understand")
    return found


def admission_of(operation: Operation) -> WriterKey | None:
    """Whom `operation` admits, if anybody."""
    return None if isinstance(operation, Revoke) else operation.key


def work_out(log: LogKey, statements: Iterable[Statement], uses: Uses, forks: Mapping[WriterKey, int]) -> Policy:
    """The policy that follows, in whatever order things are given. `forks`: writer → seq of which two entries exist."""
    by_writer: dict[WriterKey, list[Statement]] = {}
    for statement in sorted(statements, key=lambda each: (each.writer, each.seq)):
        by_writer.setdefault(statement.writer, []).append(statement)
    limits = dict(forks)
    first = WriterKey(log)
    owners = _walk_owners(first, by_writer, uses, limits)
    rotations = _settle_rotations(first, owners.admissions, by_writer, uses, limits)
    admissions = {**owners.admissions, **rotations}
    periods = _periods(first, admissions, uses, limits)
    return Policy(owners.owner, owners.since, admissions, limits, periods)


class _Owners(NamedTuple):
    owner: WriterKey
    since: int
    admissions: dict[EntryId, Admission]


def _walk_owners(
    first: WriterKey, by_writer: Mapping[WriterKey, list[Statement]], uses: Uses, limits: dict[WriterKey, int]
) -> _Owners:
    """Follow the owners' feeds from transfer to transfer; `limits` gets what they revoke."""
    owner, since = first, 0
    admissions: dict[EntryId, Admission] = {}
    floors: dict[WriterKey, int] = {}
    while True:
        handed_to: Statement | None = None
        for statement in by_writer.get(owner, ()):
            if statement.seq < since:
                continue
            if statement.seq >= limits.get(owner, FEED_ENTRIES_MAX):
                break
            match statement.operation:
                case Grant(key, rights):
                    admissions[statement.id] = Admission(key, rights)
                case Revoke(key, length):
                    if key != owner:
                        limits[key] = min(limits.get(key, FEED_ENTRIES_MAX), max(length, floors.get(key, 0)))
                case Transfer() | Rotate():
                    handed_to = statement
                    break
        if handed_to is None:
            return _Owners(owner, since, admissions)
        floors[owner] = handed_to.seq + 1
        if isinstance(handed_to.operation, Rotate):
            limits[owner] = min(limits.get(owner, FEED_ENTRIES_MAX), handed_to.seq + 1)
        key = handed_to.operation.key
        admissions[handed_to.id] = Admission(key, _OWNER)
        # A key that owned before owns again only behind its own transfer: so every step uses up a statement.
        used = [
            seq
            for (writer, seq), links in uses.items()
            if writer == key and handed_to.id in links and seq >= floors.get(key, 0)
        ]
        owner, since = key, min(used, default=FEED_ENTRIES_MAX)


def _settle_rotations(
    first: WriterKey,
    granted: Mapping[EntryId, Admission],
    by_writer: Mapping[WriterKey, list[Statement]],
    uses: Uses,
    limits: dict[WriterKey, int],
) -> dict[EntryId, Admission]:
    """Admissions by rotation of writers other than owners; `limits` gets where feeds end for lack of an admission.

    Starts from all rotations and drops what does not hold, until nothing changes: admissions and limits only fall. Then
    rights are handed down: each goes as far as there are rotations in a row.
    """
    said = [
        statement
        for statements in by_writer.values()
        for statement in statements
        if isinstance(statement.operation, Rotate) and statement.id not in granted
    ]
    while True:
        admissions = {**granted, **{each.id: Admission(each.operation.key, Rights(0)) for each in said}}
        _limit_unadmitted(first, admissions, uses, limits, by_writer)
        for each in said:
            limits[each.writer] = min(limits.get(each.writer, FEED_ENTRIES_MAX), each.seq + 1)
        kept = [each for each in said if each.seq < limits[each.writer]]
        if len(kept) == len(said):
            break
        said = kept
    found: dict[EntryId, Admission] = {}
    for _ in range(len(said)):
        periods = _periods(first, {**granted, **found}, uses, limits)
        found = {
            each.id: Admission(each.operation.key, _rights_at(periods.get(each.writer, ()), each.seq) & ~Rights.OWN)
            for each in said
        }
    return found


def _limit_unadmitted(
    first: WriterKey,
    admissions: Mapping[EntryId, Admission],
    uses: Uses,
    limits: dict[WriterKey, int],
    by_writer: Mapping[WriterKey, list[Statement]],
) -> None:
    admitted = {first}
    for (writer, seq), links in uses.items():
        if all(link in admissions and admissions[link].key == writer for link in links):
            if seq == 0:
                admitted.add(writer)
        else:
            limits[writer] = min(limits.get(writer, FEED_ENTRIES_MAX), seq)
    for writer in {*by_writer, *(writer for writer, _ in uses)} - admitted:
        limits[writer] = 0


def _periods(
    first: WriterKey, admissions: Mapping[EntryId, Admission], uses: Uses, limits: Mapping[WriterKey, int]
) -> dict[WriterKey, list[tuple[int, Rights]]]:
    periods: dict[WriterKey, list[tuple[int, Rights]]] = {first: [(0, _OWNER)]}
    for (writer, seq), links in sorted(uses.items()):
        if seq >= limits.get(writer, FEED_ENTRIES_MAX):
            continue
        for link in links:
            if link in admissions:
                before = periods.setdefault(writer, [])
                before.append((seq, admissions[link].rights))
    return periods


def _rights_at(periods: Sequence[tuple[int, Rights]], seq: int) -> Rights:
    found = Rights(0)
    for since, rights in periods:
        if since <= seq:
            found = rights
    return found
