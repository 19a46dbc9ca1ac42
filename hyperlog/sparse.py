"""Single entries with what shows that their writer was admitted: what a partial replica holds.

An entry proves by itself that its writer signed it (entry.py). That the writer may write is shown by its admission, an
entry too, and so on up to one by the log key. Revocations are not shown: who has to know of them holds the feeds.
"""

from __future__ import annotations

from collections.abc import Sequence

from hyperlog.entry import Entry, Kind, decode_entry
from hyperlog.errors import Corrupt, NotWriter
from hyperlog.ids import LogKey
from hyperlog.writers import Grant, Revoke, decode_operation

ADMISSIONS_MAX = 64


def check_sparse(log: LogKey, encoded: Sequence[bytes]) -> Entry:
    """The entry `encoded[0]`, proven by the admissions after it. Raises `Corrupt`, `NotWriter`."""
    if not 0 < len(encoded) <= 1 + ADMISSIONS_MAX:
        raise Corrupt("an entry with an impossible number of admissions")
    entries = [decode_entry(each) for each in encoded]
    if any(entry.log != log for entry in entries):
        raise Corrupt("an entry of another log")
    entry = entries[0]
    writer = entry.writer
    for admission in entries[1:]:
        if admission.kind != Kind.SYSTEM:
            raise Corrupt("an admission that is none")
        operation = decode_operation(admission.value)
        if isinstance(operation, Revoke) or operation.key != writer:
            raise Corrupt("an admission of somebody else")
        if isinstance(operation, Grant) and writer == entry.writer and not operation.rights >> entry.kind & 1:
            raise NotWriter("an entry of a kind that its writer may not write")
        writer = admission.writer
    if bytes(writer) != bytes(log):
        raise NotWriter("an entry whose writer is not shown to be admitted")
    return entry
