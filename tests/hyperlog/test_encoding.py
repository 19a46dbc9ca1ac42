"""Canonical CBOR: the examples of RFC 8949 that are in the subset, one spelling each, and nothing else."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hyperlog.encoding import Value, decode, encode
from hyperlog.errors import Corrupt
from hyperlog.limits import ENCODING_DEPTH_MAX

# RFC 8949, appendix A, as far as records may hold it
_EXAMPLES: list[tuple[Any, str]] = [
    (0, "00"),
    (1, "01"),
    (10, "0a"),
    (23, "17"),
    (24, "1818"),
    (25, "1819"),
    (100, "1864"),
    (1000, "1903e8"),
    (1000000, "1a000f4240"),
    (1000000000000, "1b000000e8d4a51000"),
    (18446744073709551615, "1bffffffffffffffff"),
    (-18446744073709551616, "3bffffffffffffffff"),
    (-1, "20"),
    (-10, "29"),
    (-100, "3863"),
    (-1000, "3903e7"),
    (False, "f4"),
    (True, "f5"),
    (None, "f6"),
    (b"", "40"),
    (b"\1\2\3\4", "4401020304"),
    ("", "60"),
    ("a", "6161"),
    ("IETF", "6449455446"),
    ('"\\', "62225c"),
    ("\u00fc", "62c3bc"),
    ("\u6c34", "63e6b0b4"),
    ("\U00010151", "64f0908591"),
    ([], "80"),
    ([1, 2, 3], "83010203"),
    ([1, [2, 3], [4, 5]], "8301820203820405"),
    ({}, "a0"),
    ({1: 2, 3: 4}, "a201020304"),
    ({"a": 1, "b": [2, 3]}, "a26161016162820203"),
]

_REFUSED = {
    "half float": "f90000",
    "double": "fb7ff8000000000000",
    "undefined": "f7",
    "simple value": "f0",
    "two-byte simple value": "f8ff",
    "tag": "c074323031332d30332d32315432303a30343a30305a",
    "bignum": "c249010000000000000000",
    "self-described": "d9d9f700",
    "indefinite bytes": "5f42010243030405ff",
    "indefinite text": "7f657374726561646d696e67ff",
    "indefinite array": "9f0102ff",
    "indefinite map": "bf61610161629f0203ffff",
    "break alone": "ff",
    "reserved length": "1c",
    "number too long 1": "1800",
    "number too long 2": "190001",
    "number too long 4": "1a00000001",
    "number too long 8": "1b0000000000000001",
    "length too long": "580161",
    "trailing byte": "0000",
    "nothing": "",
    "cut head": "19ff",
    "cut bytes": "4401",
    "cut array": "8201",
    "cut map": "a101",
    "keys out of order": "a203040102",
    "key twice": "a201020103",
    "text keys not in the order of their encodings": "a262616101616202",
    "bytes as key": "a1416101",
    "boolean as key": "a1f401",
    "bad UTF-8": "61ff",
    "surrogate": "63eda080",
    "huge array": "9bffffffffffffffff",
    "huge map": "bbffffffffffffffff",
    "huge bytes": "5bffffffffffffffff00",
}

_VALUES: st.SearchStrategy[Value] = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**64), 2**64 - 1) | st.binary(max_size=40) | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=5)
        | st.dictionaries(st.text(max_size=8), inner, max_size=5)
        | st.dictionaries(st.integers(-(2**64), 2**64 - 1), inner, max_size=5)
    ),
    max_leaves=20,
)


@pytest.mark.parametrize(("value", "spelling"), _EXAMPLES, ids=lambda each: str(each)[:24])
def test_the_examples_of_the_rfc(value: Value, spelling: str) -> None:
    assert encode(value).hex() == spelling
    found = decode(bytes.fromhex(spelling), bytes_max=100)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize("spelling", _REFUSED.values(), ids=_REFUSED.keys())
def test_every_other_spelling_is_refused(spelling: str) -> None:
    with pytest.raises(Corrupt):
        decode(bytes.fromhex(spelling), bytes_max=100)


@settings(max_examples=200, deadline=None)
@given(value=_VALUES)
def test_a_value_comes_back(value: Value) -> None:
    assert decode(encode(value), bytes_max=1 << 20) == value


@settings(max_examples=300, deadline=None)
@given(data=st.binary(max_size=60))
@example(data=b"\xa2\x01\x02\x20\x02")
def test_bytes_that_decode_are_the_encoding_of_what_they_mean(data: bytes) -> None:
    try:
        value = decode(data, bytes_max=60)
    except Corrupt:
        return
    assert encode(value) == data


def test_a_record_may_not_be_longer_than_its_place_allows() -> None:
    assert decode(encode(b"x" * 10), bytes_max=11) == b"x" * 10
    with pytest.raises(Corrupt, match="at most 10"):
        decode(encode(b"x" * 10), bytes_max=10)


def test_nesting_is_bounded_without_recursion_errors() -> None:
    deep = b"\x81" * ENCODING_DEPTH_MAX + b"\0"
    assert encode(decode(deep, bytes_max=100)) == deep
    for data in (b"\x81" + deep, b"\x81" * 100_000 + b"\0"):
        with pytest.raises(Corrupt, match="too deep"):
            decode(data, bytes_max=1 << 20)


@pytest.mark.parametrize("value", [1.5, 2**64, -(2**64) - 1, object(), {1.5: 2}])
def test_what_records_cannot_hold_is_a_bug_of_the_caller(value: object) -> None:
    with pytest.raises((TypeError, ValueError)):
        encode(value)  # type: ignore[arg-type]  # that is the point
