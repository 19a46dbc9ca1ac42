"""Ed25519 key pairs and the files that hold secrets. The only door to PyNaCl.

One verifier everywhere: Ed25519 libraries disagree about odd signatures (of the 12 vectors of Chalkias et al. 2020,
"Taming the many EdDSAs", libsodium accepts one, OpenSSL five), and nodes that disagree about validity split the
swarm. libsodium's strict check (canonical S and R, no small-order keys, the equation without cofactor) is ours by
definition. libsodium itself has moved to the equation with cofactor since 1.0.20, so the library is asked about the
vector that tells them apart before it is used. Keys with a small-order part, for which the two differ most easily, are
not admitted as writers at all (`is_public_key`).
"""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Self

import nacl.bindings
import nacl.exceptions
import nacl.pwhash.argon2id

from hyperlog.errors import Corrupt, NotFound, Refused, StoreFull
from hyperlog.ids import WriterKey
from hyperlog.killpoints import reached
from hyperlog.limits import KEY_BYTES, SIGNATURE_BYTES

_SECRET_FILE_BYTES_MAX: Final = 4096


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A writer's key pair; `seed` (32 bytes) is the secret and never shows in a repr."""

    public: WriterKey
    seed: bytes = field(repr=False)

    @classmethod
    def generate(cls) -> Self:
        return cls.from_seed(os.urandom(KEY_BYTES))

    @classmethod
    def from_seed(cls, seed: bytes) -> Self:
        assert len(seed) == KEY_BYTES
        public, _ = nacl.bindings.crypto_sign_seed_keypair(seed)
        return cls(WriterKey(public), seed)

    def sign(self, message: bytes) -> bytes:
        """The 64-byte detached signature of `message`."""
        signed = nacl.bindings.crypto_sign(message, self.seed + self.public)
        return signed[:SIGNATURE_BYTES]


def verify(public: bytes, signature: bytes, message: bytes) -> bool:
    """Whether `signature` (64 bytes) is `public`'s (32 bytes) over `message`, as libsodium judges."""
    if len(public) != KEY_BYTES or len(signature) != SIGNATURE_BYTES:
        return False
    try:
        nacl.bindings.crypto_sign_open(signature + message, public)
    except nacl.exceptions.BadSignatureError:
        return False
    return True


def _check_library() -> None:
    """Vector 4 of the paper holds only with the cofactor. Raises `RuntimeError` for a library that accepts it."""
    public = bytes.fromhex("cdb267ce40c5cd45306fa5d2f29731459387dbf9eb933b7bd5aed9a765b88d4d")
    message = bytes.fromhex("e47d62c63f830dc7a6851a0b1f33ae4bb2f507fb6cffec4011eaccd55b53f56c")
    signature = bytes.fromhex(
        "160a1cb0dc9c0258cd0a7d23e94d8fa878bcb1925f2c64246b2dee1796bed512"
        "5ec6bc982a269b723e0668e540911a9a6a58921d6925e434ab10aa7940551a09"
    )
    if verify(public, signature, message):
        raise RuntimeError("this libsodium judges signatures by another rule than the rest of the swarm (>= 1.0.21?)")


_check_library()


def is_public_key(key: bytes) -> bool:
    """Whether `key` can be a writer's: a canonical point of the prime-order group (no small-order or mixed keys)."""
    return len(key) == KEY_BYTES and bool(nacl.bindings.crypto_core_ed25519_is_valid_point(key))


def stretch(passphrase: bytes, salt: bytes, operations: int, memory_bytes: int) -> bytes:
    """A 32-byte key from a passphrase: Argon2id with a 16-byte salt. Blocks for about a second by design."""
    return nacl.pwhash.argon2id.kdf(
        nacl.bindings.crypto_secretbox_KEYBYTES, passphrase, salt, opslimit=operations, memlimit=memory_bytes
    )


def seal(key: bytes, nonce: bytes, message: bytes) -> bytes:
    """`message` encrypted and authenticated (XSalsa20-Poly1305) under a 32-byte key and a 24-byte nonce used once."""
    return nacl.bindings.crypto_secretbox(message, nonce, key)


def unseal(key: bytes, nonce: bytes, sealed: bytes) -> bytes | None:
    """The message, or None when key and box do not fit."""
    try:
        return nacl.bindings.crypto_secretbox_open(sealed, nonce, key)
    except (nacl.exceptions.CryptoError, nacl.exceptions.ValueError):
        return None


def write_secret(path: Path, secret: bytes) -> None:
    """Write `secret` to `path`, mode 0600, whole or not at all, durable on return. An existing file is not replaced.

    Raises `Refused` when there is one, `StoreFull`.
    """
    temporary = path.with_name(path.name + ".new")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        try:
            if os.write(descriptor, secret) != len(secret):
                raise StoreFull(f"no space left for {path}", "free some space and try again")
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        reached("secret.written")
        os.link(temporary, path)
        reached("secret.linked")
    except FileExistsError:
        raise Refused(f"secret file {path} exists already", "remove it yourself if it is not needed") from None
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StoreFull(f"no space left for {path}", "free some space and try again") from error
        raise
    finally:
        temporary.unlink(missing_ok=True)
    sync_directory(path.parent)
    reached("secret.done")


def read_secret(path: Path, length: int = KEY_BYTES) -> bytes:
    """The secret in `path`. Raises `NotFound`, `Refused` when others may read the file, `Corrupt` on a wrong length."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)  # never wait on a fifo
    except FileNotFoundError:
        raise NotFound(f"no secret key in {path}") from None
    except OSError as error:
        reason = "it is a symbolic link" if error.errno == errno.ELOOP else error.strerror
        raise Refused(f"secret key {path} cannot be opened: {reason}", "put the file itself there, mode 0600") from None
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise Refused(f"secret key {path} is not a regular file")
        if status.st_uid != os.geteuid() or status.st_mode & 0o077:
            raise Refused(f"secret key {path} is open to others", f"chown {os.geteuid()} {path} && chmod 600 {path}")
        secret = os.read(descriptor, _SECRET_FILE_BYTES_MAX)
    finally:
        os.close(descriptor)
    if len(secret) != length:
        raise Corrupt(f"secret key {path} has {len(secret)} bytes instead of {length}", "restore it from a backup")
    return secret


def remove_secret(path: Path) -> None:
    """Delete a secret file, durably. Its bytes are not overwritten: disks may keep copies all the same."""
    path.unlink(missing_ok=True)
    sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Make the names in directory `path` durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
