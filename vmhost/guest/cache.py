"""Where built guests lie, checked before they are used.

    $XDG_CACHE_HOME/hypernode/guests/
      ARCH-PROFILE-DIGEST/vmlinux       the kernel as QEMU starts it
      ARCH-PROFILE-DIGEST/initrd.zst
      ARCH-PROFILE-DIGEST/vmlinux.zst   the kernel packed: with the initrd, what a guest is to be carried by
      ARCH-PROFILE-DIGEST/guest.json    sizes and SHA-256 of these, package versions, modules
      ARCH-PROFILE                      a link to the one that was built last
      debs/ apt-ARCH/ kernels/          what builds keep for the next one

A guest appears by one rename, complete. Whoever builds holds the lock; whoever reads needs none.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Collection, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import trio

from hyperlog.errors import Conflict
from vmhost.errors import GuestDamaged, GuestMissing
from vmhost.guest import build, limits
from vmhost.guest.packages import Archive, Package, Say
from vmhost.guest.pool import Pool
from vmhost.guest.recipe import ARCHES, PROFILES, Recipe, recipe

_KERNEL: Final = "vmlinux"
_INITRD: Final = "initrd.zst"
_PACKED_KERNEL: Final = "vmlinux.zst"
_INFO: Final = "guest.json"
_FORMAT: Final = 2
_DIGITS: Final = 12  # of a guest's digest, in its name


@dataclass(frozen=True)
class FileInfo:
    """A file of a guest: its length in bytes, and its SHA-256 in hex."""

    bytes: int
    sha256: str


@dataclass(frozen=True)
class GuestInfo:
    """What guest.json says."""

    arch: str
    profile: str
    digest: str
    recipe: str  # of the version of ours that built it
    kernel_release: str
    files: Mapping[str, FileInfo]
    packages: Mapping[str, str]  # name → version
    modules: tuple[str, ...]  # of the kernel, in the initrd
    include: bool  # whether an overlay of the user's is in it

    @property
    def packed_bytes(self) -> int:
        """Kernel and initrd, as they are carried."""
        return self.files[_PACKED_KERNEL].bytes + self.files[_INITRD].bytes


@dataclass(frozen=True)
class Guest:
    """A built guest, its files checked."""

    kernel: Path  # for QEMU's -kernel
    initrd: Path  # for QEMU's -initrd
    info: GuestInfo


def default_cache(environment: Mapping[str, str]) -> Path:
    """`hypernode/guests` under the XDG cache directory."""
    base = environment.get("XDG_CACHE_HOME") or Path(os.path.expanduser("~")) / ".cache"
    return Path(base).absolute() / "hypernode" / "guests"


def find_guest(arch: str, profile: str, cache: Path | None = None) -> Guest:
    """The one that this version of ours built last, every file checked (0.1 s).

    Raises `GuestMissing`, `GuestDamaged`, `Refused`.
    """
    guest = _current(arch, profile, cache or default_cache(os.environ))
    check(guest)
    return guest


def _current(arch: str, profile: str, cache: Path) -> Guest:
    """The one that was built last; if another version of ours did that, the last one of this version."""
    ours = _recipe_digest(arch, profile)
    directory = cache / f"{arch}-{profile}"
    if not directory.is_dir():
        raise GuestMissing(
            f"no {profile} guest for {arch} was built here", hint=f"`{_command(arch, profile)}` builds it"
        )
    last = _open(directory.resolve())
    if last.info.recipe == ours:
        return last
    others = [guest for guest in guests(cache) if guest.info.recipe == ours]
    if not others:
        raise GuestMissing(
            f"the {profile} guest for {arch} was built by another version of hypernode",
            hint=f"`{_command(arch, profile)}` builds that of this one",
        )
    return max(others, key=lambda guest: guest.kernel.parent.stat().st_mtime)


def _recipe_digest(arch: str, profile: str) -> str:
    wanted = recipe(arch, profile)
    return build.recipe_digest(wanted, build.read_overlay(wanted.files, own_modes=False))


def guest_of(digest: str, cache: Path) -> Guest:
    """The guest of that build, every file checked. Raises `GuestMissing`, `GuestDamaged`."""
    for guest in guests(cache):
        if guest.info.digest == digest:
            check(guest)
            return guest
    raise GuestMissing(f"the guest {digest[:12]} is not here any more", hint="what was saved with it cannot go on")


def guests(cache: Path) -> list[Guest]:
    """All built guests, by name, their files not checked; damaged ones are left out."""
    found = []
    for directory in sorted(_directories(cache)):
        try:
            found.append(_open(directory))
        except GuestDamaged:
            continue
    return found


def is_current(guest: Guest, cache: Path) -> bool:
    """Whether it is the one that `find_guest` finds."""
    try:
        return _current(guest.info.arch, guest.info.profile, cache).kernel == guest.kernel
    except (GuestMissing, GuestDamaged):
        return False


def unused_guests(cache: Path, needed: Collection[str]) -> list[str]:
    """The names of those that nothing begins with any more: neither `find_guest` nor, by digest, what is `needed`.

    Damaged ones, and those of formats of other versions, are among them.
    """
    used = {
        guest.kernel.parent.name for guest in guests(cache) if guest.info.digest in needed or is_current(guest, cache)
    }
    return sorted(path.name for path in _directories(cache) if path.name not in used)


def remove_guest(name: str, cache: Path) -> None:
    """Remove a built guest by its directory's name or ARCH-PROFILE. Raises `GuestMissing`."""
    named = [path for path in _directories(cache) if path.name == name or path == (cache / name).resolve()]
    if not named:
        raise GuestMissing(f"there is no guest {name!r}", hint="`hypernode guest ls` lists them")
    for link in cache.iterdir():
        if link.is_symlink() and link.resolve() == named[0]:
            link.unlink()
    shutil.rmtree(named[0])


def remove_sources(cache: Path) -> None:
    """Remove what builds keep for the next one: packages, lists, packed kernels."""
    for path in (cache / "debs", cache / "kernels", *cache.glob("apt-*")):
        shutil.rmtree(path, ignore_errors=True)


def check(guest: Guest) -> None:
    """Raises `GuestDamaged` unless each file has the length and the SHA-256 that its guest.json says."""
    directory = guest.kernel.parent
    for name, info in guest.info.files.items():
        try:
            with (directory / name).open("rb") as file:
                whole = os.fstat(file.fileno()).st_size == info.bytes
                whole = whole and hashlib.file_digest(file, "sha256").hexdigest() == info.sha256
        except OSError:
            whole = False
        if not whole:
            again = _command(guest.info.arch, guest.info.profile)
            raise GuestDamaged(
                f"the guest's {directory / name} is not what was built", hint=f"`{again}` builds it again"
            )


async def build_guest(
    arch: str,
    profile: str,
    *,
    include: Path | None = None,
    sources: Path | None = None,
    cache: Path | None = None,
    say: Say = lambda words: None,
) -> Guest:
    """Build a guest, or find that it is there already; from now on it is the one of its architecture and profile.

    `include` is a directory whose files are merged in, `sources` an apt sources file in place of the host's. Raises
    `Refused` (an odd wish), `NoMirror`, `GuestSourceBad`, `HostUnfit`, `Conflict` (somebody builds, for minutes).
    """
    wanted = recipe(arch, profile)
    cache = cache or default_cache(os.environ)
    own = build.read_overlay(wanted.files, own_modes=False)
    overlay = build.read_overlay([include], own_modes=True) if include else None
    cache.mkdir(parents=True, exist_ok=True)
    async with _locked(cache / "lock", say):
        archive = Archive(cache / f"apt-{arch}", arch, sources)
        packages = await archive.resolve(wanted.packages, wanted.unwanted, say)
        digest = build.guest_digest(wanted, packages, own, overlay)
        directory = cache / f"{arch}-{profile}-{digest[:_DIGITS]}"
        guest = await trio.to_thread.run_sync(_open_whole, directory)
        if guest is None:
            debs = await archive.download(packages, cache / "debs", say)
            say("putting the guest together")
            with _scratch(cache) as scratch:
                maker = _Maker(wanted, packages, debs, own, overlay, digest, cache, scratch)
                await maker.run()
                await trio.to_thread.run_sync(_install, scratch / "guest", directory)
            guest = _open(directory)
        _point(cache / f"{arch}-{profile}", directory)
        return guest


class _Maker:
    """One build, in a scratch directory."""

    def __init__(
        self,
        wanted: Recipe,
        packages: tuple[Package, ...],
        debs: list[Path],
        own: build.Overlay,
        include: build.Overlay | None,
        digest: str,
        cache: Path,
        scratch: Path,
    ) -> None:
        self._recipe = wanted
        self._packages = packages
        self._debs = debs
        self._own = own
        self._include = include
        self._digest = digest
        self._kernels = cache / "kernels"
        self._scratch = scratch
        self._out = scratch / "guest"

    async def run(self) -> None:
        """Kernel and initrd at the same time: each keeps about one core busy."""
        self._out.mkdir()
        pool = await trio.to_thread.run_sync(Pool, self._debs, self._scratch)
        with pool:
            release, kernel = await trio.to_thread.run_sync(build.make_kernel, pool, self._recipe.arch)
            make = build.make_initrd
            initrd, modules = await trio.to_thread.run_sync(make, pool, self._recipe, self._own, self._include)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.to_thread.run_sync, self._put_kernel, release, kernel)
            nursery.start_soon(trio.to_thread.run_sync, self._put_initrd, initrd)
        await trio.to_thread.run_sync(self._put_info, release, modules)

    def _put_kernel(self, release: str, kernel: bytes) -> None:
        (self._out / _KERNEL).write_bytes(kernel)
        packed = self._packed_kernel(release, kernel)
        (self._out / _PACKED_KERNEL).write_bytes(packed)

    def _packed_kernel(self, release: str, kernel: bytes) -> bytes:
        """From an earlier build of the other profile, where that packed the same kernel."""
        name = f"{release}-{hashlib.sha256(kernel).hexdigest()[:32]}-{limits.PACK_LEVEL}.zst"
        try:
            packed = (self._kernels / name).read_bytes()
            if hashlib.sha256(packed).hexdigest() == (self._kernels / f"{name}.sha256").read_text():
                return packed
        except FileNotFoundError:
            pass
        packed = build.pack(kernel)
        self._kernels.mkdir(exist_ok=True)
        (self._kernels / f"{name}.sha256").write_text(hashlib.sha256(packed).hexdigest())
        (self._kernels / name).write_bytes(packed)
        return packed

    def _put_initrd(self, initrd: bytes) -> None:
        (self._out / _INITRD).write_bytes(build.pack(initrd))

    def _put_info(self, release: str, modules: list[str]) -> None:
        files = {}
        for name in (_KERNEL, _INITRD, _PACKED_KERNEL):
            with (self._out / name).open("rb") as file:
                info = {
                    "bytes": os.fstat(file.fileno()).st_size,
                    "sha256": hashlib.file_digest(file, "sha256").hexdigest(),
                }
            files[name] = info
        words = {
            "format": _FORMAT,
            "arch": self._recipe.arch,
            "profile": self._recipe.profile,
            "digest": self._digest,
            "recipe": build.recipe_digest(self._recipe, self._own),
            "kernel_release": release,
            "files": files,
            "packages": {package.name: package.version for package in self._packages},
            "modules": modules,
            "include": self._include is not None,
        }
        (self._out / _INFO).write_text(json.dumps(words, indent=1) + "\n")


def _directories(cache: Path) -> Iterator[Path]:
    prefixes = tuple(f"{arch}-{profile}-" for arch in ARCHES for profile in PROFILES)
    if cache.is_dir():
        yield from (path for path in cache.iterdir() if path.name.startswith(prefixes) and path.is_dir())


def _open(directory: Path) -> Guest:
    """Raises `GuestDamaged` where guest.json does not say what it should."""
    try:
        with (directory / _INFO).open("rb") as file:
            words = json.loads(file.read(limits.INFO_BYTES_MAX))
        if words["format"] != _FORMAT:
            raise ValueError("it is of another format")
        files = {name: FileInfo(int(info["bytes"]), str(info["sha256"])) for name, info in words["files"].items()}
        if not {_KERNEL, _INITRD, _PACKED_KERNEL} <= files.keys() or any("/" in name for name in files):
            raise ValueError("it names other files")
        info = GuestInfo(
            arch=str(words["arch"]),
            profile=str(words["profile"]),
            digest=str(words["digest"]),
            recipe=str(words["recipe"]),
            kernel_release=str(words["kernel_release"]),
            files=files,
            packages=dict(words["packages"]),
            modules=tuple(words["modules"]),
            include=bool(words["include"]),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        arch, profile = directory.name.split("-")[:2]
        raise GuestDamaged(
            f"{directory / _INFO} cannot be read: {error}", hint=f"`{_command(arch, profile)}` builds it again"
        ) from None
    return Guest(directory / _KERNEL, directory / _INITRD, info)


def _open_whole(directory: Path) -> Guest | None:
    try:
        guest = _open(directory)
        check(guest)
    except GuestDamaged:
        return None
    return guest


def _install(made: Path, directory: Path) -> None:
    """Put it in place of a damaged one, durably; it is complete or not there."""
    for path in [*made.iterdir(), made]:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    if directory.exists():
        directory.rename(made.with_name("damaged"))
    made.rename(directory)


def _point(link: Path, directory: Path) -> None:
    temporary = link.with_name(f".{link.name}.new")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(directory.name)
    temporary.replace(link)


@contextmanager
def _scratch(cache: Path) -> Iterator[Path]:
    for left in cache.glob("building-*"):  # of a build that was killed: the lock is ours
        shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix="building-", dir=cache, ignore_cleanup_errors=True) as name:
        yield Path(name)


@asynccontextmanager
async def _locked(path: Path, say: Say) -> AsyncIterator[None]:
    with path.open("w") as file:
        deadline = trio.current_time() + limits.LOCK_SECONDS
        told = False
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if trio.current_time() > deadline:
                    raise Conflict("another build of a guest has been under way for minutes", hint=str(path)) from None
            if not told:
                say("waiting for another build of a guest")
                told = True
            await trio.sleep(limits.LOCK_POLL_SECONDS)
        yield


def _command(arch: str, profile: str) -> str:
    return f"hypernode guest build --arch {arch} --profile {profile}"
