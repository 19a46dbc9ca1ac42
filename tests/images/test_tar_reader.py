"""The tar reader: what writers write is read back, and what is malformed has an error with a name."""

from __future__ import annotations

import io
import stat
import subprocess
import tarfile
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hyperlog.errors import HyperError
from images.errors import ArchiveCorrupt, SourceTooLarge, SourceUnsupported
from images.manifest import Inode
from images.tar_reader import Member, TarReader
from images.tar_writer import write_tar
from images.tree import Node
from tests.images.layers import Entry, tar
from tests.images.support import manifest_of, trees


class Bytes:
    """A source that gives what it likes at once, as pipes do."""

    def __init__(self, data: bytes, most: int = 1 << 20) -> None:
        self._file = io.BytesIO(data)
        self._most = most

    def read(self, size: int, /) -> bytes:
        return self._file.read(min(size, self._most))

    def skip(self, _size: int, /) -> bool:
        return False


class Read(NamedTuple):
    member: Member
    data: bytes


def read(data: bytes, most: int = 1 << 20) -> list[Read]:
    found = []
    reader = TarReader(Bytes(data, most))
    for member in reader:
        parts = list(reader.data())  # before the room that a lying size asks for
        content = bytearray(member.size)
        for offset, part in parts:
            content[offset : offset + len(part)] = part
        found.append(Read(member, bytes(content)))
    return found


def raw(kind: bytes = b"0", size: int = 0, name: bytes = b"f", field: bytes | None = None) -> bytes:
    """A header block with a right checksum; `field` replaces the size field."""
    info = tarfile.TarInfo("f")
    block = bytearray(info.tobuf(tarfile.USTAR_FORMAT))
    block[:100] = name.ljust(100, b"\0")
    block[124:136] = field or b"%011o\0" % size
    block[156:157] = kind
    return sealed(block)


def sealed(block: bytearray) -> bytes:
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def pax(*records: bytes, kind: bytes = b"x") -> bytes:
    data = b"".join(records)
    return raw(kind, len(data)) + data + bytes(-len(data) % 512)


def record(text: bytes) -> bytes:
    length = len(text) + 2
    while len(b"%d %s\n" % (length, text)) != length:
        length += 1
    return b"%d %s\n" % (length, text)


END = bytes(1024)
SAMPLE = tar([Entry("n" * 120, "data", pax={"SCHILY.xattr.user.a": "1"}), Entry("g", "x" * 600)])

texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=150).filter(
    lambda text: text.strip("/.") == text and "//" not in text
)


@settings(max_examples=150, deadline=None)
@given(
    form=st.sampled_from([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT]),
    name=texts,
    data=st.binary(max_size=3000),
    owner=st.tuples(st.integers(0, 2**32 - 2), st.integers(0, 2**32 - 2)),
    mode=st.integers(0, 0o7777),
    mtime=st.integers(-(2**31), 2**33),
    most=st.integers(1, 600),
)
def test_what_another_writer_writes_is_read_back(
    form: int, name: str, data: bytes, owner: tuple[int, int], mode: int, mtime: int, most: int
) -> None:
    (found,) = read(tar([Entry(name, data, owner=owner, mode=mode, mtime=mtime)], form), most)
    member = found.member
    assert (member.name.decode(), found.data, (member.uid, member.gid)) == (name, data, owner)
    assert (member.mode, member.mtime_ns) == (stat.S_IFREG | mode, mtime * 10**9)


@settings(max_examples=60, deadline=None)
@given(trees())
def test_what_our_writer_writes_is_read_back(root: Node) -> None:
    manifest = manifest_of(root)
    out = io.BytesIO()
    write_tar(manifest, Zeros(), out.write, on_bytes=lambda _size: None)
    members = {found.member.name.rstrip(b"/") or b".": found.member for found in read(out.getvalue())}
    for path, number in manifest.walk():
        inode = manifest.inode(number)
        member = members[path or b"."]
        if member.is_hard_link:
            assert manifest.lookup(member.target) == number
        else:
            assert (member.mode, member.uid, member.gid) == (inode.mode, inode.uid, inode.gid)
            assert (member.mtime_ns, member.xattrs, member.device) == (inode.mtime_ns, inode.xattrs, inode.device)
            assert (member.target, member.size) == (inode.target, 0 if inode.target else _size(inode))


@settings(max_examples=300, deadline=None)
@given(
    st.binary(max_size=3000)
    | st.tuples(st.integers(0, 2000), st.binary(min_size=1, max_size=20)).map(
        lambda change: SAMPLE[: change[0]] + change[1] + SAMPLE[change[0] + len(change[1]) :]
    )
)
def test_damage_never_surprises(data: bytes) -> None:
    try:
        read(data)
    except HyperError:
        return


MALFORMED: dict[str, tuple[bytes, type[HyperError], str]] = {
    "nothing": (b"", ArchiveCorrupt, "cut short at byte 0"),
    "no end": (raw(), ArchiveCorrupt, "cut short at byte 512"),
    "half a header": (raw()[:300], ArchiveCorrupt, "cut short"),
    "data cut short": (raw(size=1000) + b"x" * 600, ArchiveCorrupt, "cut short"),
    "half an end": (raw() + bytes(512), ArchiveCorrupt, "cut short"),
    "lone zeros": (raw() + bytes(512) + raw() + END, ArchiveCorrupt, "lone block of zeros"),
    "checksum": (b"y" + raw()[1:] + END, ArchiveCorrupt, "checksum"),
    "octal junk": (raw(field=b"0000000zz9\0\0") + END, ArchiveCorrupt, "size is no number"),
    "negative size": (raw(field=b"\xff" * 12) + END, ArchiveCorrupt, "size is impossible"),
    "huge size": (raw(field=b"\x80" + b"\x7f" * 11) + END, ArchiveCorrupt, "size is impossible"),
    "8 GiB that are not there": (raw(field=b"\x80" + (8 << 30).to_bytes(11, "big")) + END, ArchiveCorrupt, "cut short"),
    "2 TiB": (raw(field=b"\x80" + (2 << 40).to_bytes(11, "big")) + END, SourceTooLarge, "a file of"),
    "unknown kind": (raw(b"Z") + END, SourceUnsupported, "kind 'Z'"),
    "pax of 1 TiB": (raw(b"x", field=b"\x80" + (1 << 40).to_bytes(11, "big")) + END, SourceTooLarge, "extension"),
    "long name of 2 MiB": (raw(b"L", 2 << 20) + END, SourceTooLarge, "extension"),
    "pax without a length": (pax(b"path=x\n") + raw() + END, ArchiveCorrupt, "without a length"),
    "pax beyond itself": (pax(b"99 path=x\n") + raw() + END, ArchiveCorrupt, "malformed record"),
    "pax without a newline": (pax(b"9 path=xy") + raw() + END, ArchiveCorrupt, "malformed record"),
    "pax at the end": (pax(record(b"path=x")) + END, ArchiveCorrupt, "before the member"),
    "pax mtime": (pax(record(b"mtime=nan")) + raw() + END, ArchiveCorrupt, "mtime is no time"),
    "pax uid": (pax(record(b"uid=-1")) + raw() + END, ArchiveCorrupt, "owner is no number"),
    "pax uid too big": (pax(record(b"uid=4294967296")) + raw() + END, ArchiveCorrupt, "impossible owner"),
    "two sizes": (pax(record(b"size=5")) + raw(size=3) + bytes(512) + END, ArchiveCorrupt, "two sizes"),
    "two names": (
        raw(b"L", 3) + b"abc".ljust(512, b"\0") + pax(record(b"path=xyz")) + raw() + END,
        ArchiveCorrupt,
        "two long names",
    ),
    "NUL in a name": (pax(record(b"path=a\0b")) + raw() + END, ArchiveCorrupt, "NUL"),
    "overlapping segments": (
        pax(record(b"GNU.sparse.map=0,4,2,4"), record(b"GNU.sparse.size=100")) + raw(size=8) + bytes(512) + END,
        ArchiveCorrupt,
        "overlap",
    ),
    "segments that lie": (
        pax(record(b"GNU.sparse.map=0,4,10,9"), record(b"GNU.sparse.size=100")) + raw(size=8) + bytes(512) + END,
        ArchiveCorrupt,
        "not as long",
    ),
    "too many segments": (
        pax(record(b"GNU.sparse.map=" + b"1," * 140_000 + b"1"), record(b"GNU.sparse.size=9")) + raw() + END,
        SourceTooLarge,
        "segments",
    ),
    "half a segment": (
        pax(record(b"GNU.sparse.map=0"), record(b"GNU.sparse.size=9")) + raw() + END,
        ArchiveCorrupt,
        "half",
    ),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed(name: str) -> None:
    data, kind, message = MALFORMED[name]
    with pytest.raises(kind, match=message):
        read(data)


def test_global_records_hold_until_a_local_one_overrides() -> None:
    data = (
        pax(record(b"mtime=5"), kind=b"g") + raw(name=b"a") + pax(record(b"mtime=6.25")) + raw(name=b"b") + raw() + END
    )
    assert [found.member.mtime_ns for found in read(data)] == [5 * 10**9, 6_250_000_000, 5 * 10**9]


def test_times_before_1970_keep_their_nanoseconds() -> None:
    data = pax(record(b"mtime=-1.5")) + raw() + END
    assert read(data)[0].member.mtime_ns == -1_500_000_000


@pytest.mark.parametrize("form", ["gnu", "posix --sparse-version=0.0", "posix --sparse-version=0.1", "posix"])
def test_sparse_files_of_gnu_tar(form: str, tmp_path: Path) -> None:
    """Every sparse form, more segments than one header holds, a hole at the end."""
    content = bytearray(1 << 22)
    with (tmp_path / "sparse").open("wb") as file:
        for number in range(40):
            file.seek(number * 65536 + 4096)
            file.write(b"%04d" % number * 1024)
            content[number * 65536 + 4096 : number * 65536 + 8192] = b"%04d" % number * 1024
        file.truncate(1 << 22)
    argv = ["tar", "-C", str(tmp_path), "-S", f"--format={form.split()[0]}", *form.split()[1:], "-cf", "-", "sparse"]
    (found,) = read(subprocess.run(argv, check=True, capture_output=True).stdout)
    assert found.member.name == b"sparse"
    assert found.data == bytes(content)
    assert sum(length for _, length in found.member.segments) < 1 << 20


class Zeros:
    def read_nowait(self, _offset: int, size: int) -> bytes:
        return bytes(size)


def _size(inode: Inode) -> int:
    return inode.size if stat.S_ISREG(inode.mode) else 0
