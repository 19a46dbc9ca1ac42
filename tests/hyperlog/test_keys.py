"""One Ed25519 verifier, and files that hold secrets."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hyperlog.errors import Corrupt, HyperError, NotFound, Refused
from hyperlog.key_export import PREFIX, export_key, import_key
from hyperlog.keys import KeyPair, is_public_key, read_secret, verify, write_secret
from hyperlog.limits import EXPORT_MEMORY_BYTES_MIN, EXPORT_TEXT_MAX
from tests.hyperlog.speccheck import VECTORS, Vector

_ORDER = 2**252 + 27742317777372353535851937790883648493
_SMALL_ORDER = [bytes(32), b"\1" + bytes(31), b"\xec" + b"\xff" * 30 + b"\x7f", bytes.fromhex(VECTORS[0].public)]


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector.what)
def test_the_twelve_odd_signatures_get_the_verdict_that_every_node_gives(vector: Vector) -> None:
    public, signature = bytes.fromhex(vector.public), bytes.fromhex(vector.signature)
    assert verify(public, signature, bytes.fromhex(vector.message)) == vector.valid
    assert is_public_key(public) == vector.admitted


@pytest.mark.parametrize(
    "public", [*_SMALL_ORDER, bytes(31), bytes(33), b"\xff" * 32, b"\xee" + b"\xff" * 30 + b"\x7f"]
)
def test_keys_that_nobody_can_own_are_refused(public: bytes) -> None:
    assert not is_public_key(public)
    assert not verify(public, bytes(64), b"anything")
    assert not verify(public, public.ljust(64, b"\0")[:64], b"anything")


def test_a_second_signature_with_s_plus_the_order_is_refused() -> None:
    pair = KeyPair.from_seed(bytes(32))
    good = pair.sign(b"m")
    shifted = int.from_bytes(good[32:], "little") + _ORDER
    assert verify(pair.public, good, b"m")
    assert not verify(pair.public, good[:32] + shifted.to_bytes(32, "little"), b"m")


@settings(max_examples=30, deadline=None)
@given(seed=st.binary(min_size=32, max_size=32), message=st.binary(max_size=200), bit=st.integers(0, 511))
def test_a_signature_is_valid_until_any_bit_changes(seed: bytes, message: bytes, bit: int) -> None:
    pair = KeyPair.from_seed(seed)
    signature = bytearray(pair.sign(message))
    assert is_public_key(pair.public)
    assert verify(pair.public, bytes(signature), message)
    assert not verify(pair.public, bytes(signature), message + b"x")
    signature[bit // 8] ^= 1 << bit % 8
    assert not verify(pair.public, bytes(signature), message)


def test_a_secret_does_not_show() -> None:
    pair = KeyPair.from_seed(b"\x07" * 32)
    for text in (repr(pair), str(pair), f"{pair}"):
        assert "07070707" not in text
        assert repr(pair.seed) not in text


def test_a_secret_file_is_whole_private_and_never_replaced(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.with_name("key.new").write_bytes(b"left by a crash")
    path.with_name("key.new").chmod(0o644)
    before = os.umask(0)
    try:
        write_secret(path, b"s" * 32)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.stat().st_nlink == 1
    assert read_secret(path) == b"s" * 32
    assert os.listdir(tmp_path) == ["key"]
    with pytest.raises(Refused, match="exists already"):
        write_secret(path, b"t" * 32)
    assert read_secret(path) == b"s" * 32
    assert os.listdir(tmp_path) == ["key"]


def _symlink(path: Path) -> None:
    target = path.with_name("target")
    target.write_bytes(bytes(32))
    target.chmod(0o600)
    path.symlink_to(target)


def _world_readable(path: Path) -> None:
    path.write_bytes(bytes(32))
    path.chmod(0o644)


def _of_length(length: int) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        path.write_bytes(bytes(length))
        path.chmod(0o600)

    return make


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (lambda path: None, NotFound, "no secret key"),
        (_symlink, Refused, "symbolic link"),
        (_world_readable, Refused, "open to others"),
        (lambda path: path.mkdir(mode=0o700), Refused, "not a regular file"),
        (lambda path: os.mkfifo(path, 0o600), Refused, "not a regular file"),
        (_of_length(0), Corrupt, "0 bytes instead of 32"),
        (_of_length(31), Corrupt, "31 bytes"),
        (_of_length(33), Corrupt, "33 bytes"),
    ],
)
def test_a_secret_file_that_is_not_as_it_should_be_is_refused(
    tmp_path: Path, make: Callable[[Path], None], error: type[HyperError], text: str
) -> None:
    path = tmp_path / "key"
    make(path)
    with pytest.raises(error, match=text):
        read_secret(path)


def test_the_hint_for_an_open_key_file_is_the_command_that_mends_it(tmp_path: Path) -> None:
    path = tmp_path / "key"
    _world_readable(path)
    with pytest.raises(Refused) as caught:
        read_secret(path)
    assert caught.value.hint is not None
    assert f"chmod 600 {path}" in caught.value.hint


@pytest.fixture(scope="module")
def exported() -> str:
    return export_key(KeyPair.from_seed(b"\x07" * 32), "correct horse", memory_bytes=EXPORT_MEMORY_BYTES_MIN)


def test_an_exported_key_comes_back_with_its_passphrase_only(exported: str) -> None:
    assert import_key(exported, "correct horse") == KeyPair.from_seed(b"\x07" * 32)
    assert import_key(f"  {exported[:40]}\n{exported[40:]}\n", "correct horse").seed == b"\x07" * 32
    with pytest.raises(Refused, match="passphrase is wrong"):
        import_key(exported, "correct horse ")
    for call in (lambda: import_key(exported, ""), lambda: export_key(KeyPair.generate(), "")):
        with pytest.raises(Refused, match="empty passphrase"):
            call()


def test_two_exports_of_a_key_differ(exported: str) -> None:
    again = export_key(KeyPair.from_seed(b"\x07" * 32), "correct horse", memory_bytes=EXPORT_MEMORY_BYTES_MIN)
    assert again != exported


def test_a_passphrase_is_the_same_however_it_is_typed() -> None:
    pair = KeyPair.generate()
    text = export_key(pair, "caf\u00e9", memory_bytes=EXPORT_MEMORY_BYTES_MIN)
    assert import_key(text, "cafe\u0301") == pair


def test_every_changed_character_is_noticed(exported: str) -> None:
    for place in range(0, len(exported), 5):
        changed = exported[:place] + ("A" if exported[place] != "A" else "B") + exported[place + 1 :]
        with pytest.raises((Refused, Corrupt)):
            import_key(changed, "correct horse")


@pytest.mark.parametrize(
    "text", ["", PREFIX, PREFIX + "!", "x" * (EXPORT_TEXT_MAX + 1), PREFIX + "A" * 900, "ssh-ed25519 x"]
)
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises((Refused, Corrupt)):
        import_key(text, "p")
