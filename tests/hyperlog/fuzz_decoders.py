"""Fuzz targets that decode bytes and keep nothing: records, entries, claims, links, keys, signatures."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

from hyperlog.encoding import decode, encode
from hyperlog.entry import decode_claim, decode_entry
from hyperlog.errors import Corrupt, PeerMisbehaved, Refused
from hyperlog.forks import decode_fork
from hyperlog.ids import from_text, to_text
from hyperlog.key_export import export_key, parse_exported
from hyperlog.keys import KeyPair, is_public_key, verify
from hyperlog.limits import EXPORT_MEMORY_BYTES_MIN
from hyperlog.link import parse_link
from hyperlog.messages import decode_message, encode_message
from hyperlog.writers import decode_operation, encode_operation


class Target(NamedTuple):
    """`run` any bytes, `share` of a thousand executions."""

    name: str
    share: int
    corpus: Sequence[bytes]
    run: Callable[[bytes], None]


def encoding() -> Target:
    values: list[object] = [
        0,
        -1,
        23,
        24,
        2**64 - 1,
        -(2**63),
        b"bytes",
        "text",
        [],
        {},
        [None, True, False],
        {"a": 1, "b": [b""]},
    ]
    corpus = [encode(value) for value in values]  # type: ignore[arg-type]  # all of them are encodable
    corpus += [
        b"\x9f\xff",
        b"\xbf\xff",
        b"\x5f\x41a\xff",
        b"\xc2\x41\x01",
        b"\xfb" + bytes(8),
        b"\x81" * 40,
        b"\xa2\x01\x01\x01\x02",
    ]

    def run(data: bytes) -> None:
        try:
            value = decode(data, bytes_max=1 << 16)
        except Corrupt:
            return
        assert encode(value) == data

    return Target("encoding", 250, corpus, run)


def entries(encoded: list[bytes], foreign: list[bytes]) -> Target:
    known = set(encoded + foreign)

    def run(data: bytes) -> None:
        for trusted in (True, False):
            try:
                entry = decode_entry(data, trusted=trusted)
            except Corrupt:
                continue
            assert entry.encoded == data
            assert trusted or data in known, "a signature that nobody made"

    return Target("entry", 120, encoded + foreign, run)


def claims(claims: list[bytes]) -> Target:
    def run(data: bytes) -> None:
        try:
            claim = decode_claim(data)
        except Corrupt:
            return
        assert claim.encode() == data
        assert data in claims, "a signature that nobody made"

    return Target("claim", 60, claims, run)


def forks(claims: list[bytes]) -> Target:
    def run(data: bytes) -> None:
        with contextlib.suppress(Corrupt):
            decode_fork(data)
            raise AssertionError("a fork that never was")

    return Target("fork proof", 60, [encode([1, *claims]), encode(claims), b"".join(claims)], run)


def operations(values: list[bytes]) -> Target:
    def run(data: bytes) -> None:
        try:
            operation = decode_operation(data)
        except Corrupt:
            return
        assert encode_operation(operation) == data

    return Target("operation", 80, values, run)


def links(encoded: list[bytes]) -> Target:
    key = to_text(decode_entry(encoded[0]).log)
    texts = [
        key,
        f"hyper://{key}",
        f"hyper://{key}@v3",
        f"hyper://{key}@tag-1.2+x/?peer=/ip4/192.0.2.1/tcp/1/p2p/x&peer=/dns/a/udp/2",
    ]

    def run(data: bytes) -> None:
        try:
            link = parse_link(data.decode("utf-8", "surrogateescape"))
        except Refused:
            return
        assert parse_link(link.text) == link

    return Target("link", 120, [text.encode() for text in texts], run)


def key_texts() -> Target:
    def run(data: bytes) -> None:
        text = data.decode("latin-1")
        try:
            identifier = from_text(text)
        except Refused:
            return
        assert to_text(identifier) == text

    return Target("key text", 100, [to_text(bytes(32)).encode(), to_text(bytes(range(32))).encode()], run)


def exported() -> Target:
    pair = KeyPair.from_seed(bytes(32))
    corpus = [export_key(pair, "pass", memory_bytes=EXPORT_MEMORY_BYTES_MIN).encode() for _ in range(2)]

    def run(data: bytes) -> None:
        try:
            public, _, memory_bytes, *_ = parse_exported(data.decode("utf-8", "replace"))
        except (Refused, Corrupt):
            return
        assert len(public) == 32
        assert memory_bytes <= 1 << 30

    return Target("exported key", 80, corpus, run)


def signatures() -> Target:
    pair = KeyPair.from_seed(b"\1" * 32)
    good = pair.public + pair.sign(b"message")

    def run(data: bytes) -> None:
        public, signature = data[:32], data[32:]
        is_public_key(public)
        assert verify(public, signature, b"message") == (data == good)

    return Target("signature", 30, [good, bytes(96), b"\xff" * 96], run)


def messages(frames: list[bytes]) -> Target:
    def run(data: bytes) -> None:
        try:
            message = decode_message(data)
        except PeerMisbehaved:
            return
        assert encode_message(message) == data

    return Target("message", 80, frames, run)
