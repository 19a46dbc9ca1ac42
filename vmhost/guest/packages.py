"""Debian packages without root and without touching the host's own: apt with lists, keys and state in the guest cache.

apt resolves against an empty system, so the answer is the whole closure, the same on every host. It prints each file
with its SHA-256, taken from lists that the archive's key signed; what lies in the cache is used only if it matches.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import unquote

import trio

from hyperlog.errors import Refused
from vmhost.errors import GuestSourceBad, HostUnfit, NoMirror
from vmhost.guest import limits
from vmhost.guest.sources import debian_sources

_APT: Final = "apt-get"
_HINT: Final = "is the network there, and does a Debian mirror stand in /etc/apt? `--sources FILE` names another"
_URI: Final = re.compile(r"'(?P<uri>[^']+)' (?P<file>\S+) (?P<size>\d+) SHA256:(?P<sha256>[0-9a-f]{64})")

Say = Callable[[str], None]
"""Told what is being done, a few words at a time."""


@dataclass(frozen=True)
class Package:
    name: str
    version: str
    file: str
    size: int
    sha256: str


class Archive:
    """The Debian archive for one architecture, as seen from this host."""

    def __init__(self, directory: Path, arch: str, sources: Path | None) -> None:
        """`directory` is apt's to keep; `sources` an apt sources file in place of the host's."""
        self._directory = directory
        self._arch = arch
        self._sources = sources

    async def resolve(self, wanted: Sequence[str], unwanted: Sequence[str], say: Say) -> tuple[Package, ...]:
        """The packages, and all they depend on but those whose names begin with an unwanted word.

        Raises `HostUnfit`, `NoMirror`, `GuestSourceBad`.
        """
        self._configure()
        await self._renew_lists(say)
        arguments = ["install", "--print-uris", "-qq", "--yes", "--no-install-recommends", *wanted]
        done = await self._apt(arguments, self._directory, limits.RESOLVE_SECONDS)
        if done.returncode != 0:
            raise NoMirror(f"Debian's packages for the guest are not to be had: {_last_words(done.stderr)}", hint=_HINT)
        found = [
            _package(match)
            for match in map(_URI.fullmatch, done.stdout.decode("utf-8", "replace").splitlines())
            if match is not None and not match["file"].startswith(tuple(unwanted))
        ]
        if not found or len(found) > limits.PACKAGES_MAX:
            raise GuestSourceBad(f"the guest's packages depend on {len(found)} packages; that cannot be right")
        return tuple(sorted(found, key=lambda package: package.file))

    async def download(self, packages: Sequence[Package], into: Path, say: Say) -> list[Path]:
        """The packages' files in `into`, each checked. Raises `NoMirror`, `GuestSourceBad`."""
        await trio.Path(into).mkdir(parents=True, exist_ok=True)
        missing = [p for p in packages if not await trio.to_thread.run_sync(_is_whole, into / p.file, p)]
        if missing:
            say(f"fetching {len(missing)} packages, {sum(p.size for p in missing) / 1e6:.0f} MB")
            for package in missing:
                (into / package.file).unlink(missing_ok=True)
            wanted = [f"{package.name}={package.version}" for package in missing]
            done = await self._apt(["-q", "download", *wanted], into, limits.DOWNLOAD_SECONDS)
            if done.returncode != 0:
                raise NoMirror(f"packages could not be fetched: {_last_words(done.stderr)}", hint=_HINT)
            for package in missing:
                if not await trio.to_thread.run_sync(_is_whole, into / package.file, package):
                    (into / package.file).unlink(missing_ok=True)
                    raise GuestSourceBad(f"{package.file} is not what the archive's signed lists say")
        return [into / package.file for package in packages]

    def _configure(self) -> None:
        if shutil.which(_APT) is None:
            raise HostUnfit(f"{_APT} is not installed", hint="guests are made from Debian packages, on Debian")
        for name in ("lists/partial", "cache/archives/partial", "sources.d"):
            (self._directory / name).mkdir(parents=True, exist_ok=True)
        found = debian_sources(_source_files(self._sources))
        if not found:
            raise Refused("no Debian mirror is set up in /etc/apt", hint="`--sources FILE` names an apt sources file")
        text = "\n".join(source.stanza() for source in found)
        _write(self._directory / "sources.d" / "debian.sources", text)
        _write(self._directory / "status", "")
        _write(self._directory / "apt.conf", self._configuration())

    def _configuration(self) -> str:
        here = self._directory
        values = {
            "APT::Architecture": self._arch,
            "APT::Architectures": self._arch,
            "APT::Sandbox::User": "",
            "Acquire::ForceHash": "sha256",
            "Acquire::Languages": "none",
            "Acquire::Retries": "2",
            "Dir::State": here,
            "Dir::State::lists": here / "lists",
            "Dir::State::status": here / "status",
            "Dir::Cache": here / "cache",
            "Dir::Etc::sourcelist": "/dev/null",
            "Dir::Etc::sourceparts": here / "sources.d",
            # The host's own configuration has hooks that are meant for the host's packages; only its ways out are kept.
            "Dir::Etc::main": "/dev/null",
            "Dir::Etc::parts": "/dev/null",
        }
        return _host_acquire() + "".join(f'{name} "{value}";\n' for name, value in values.items())

    async def _renew_lists(self, say: Say) -> None:
        stamp = self._directory / "renewed"
        sources = (self._directory / "sources.d" / "debian.sources").read_text()
        known = stamp.exists() and stamp.read_text() == sources
        if known and time.time() - stamp.stat().st_mtime < limits.LISTS_FRESH_SECONDS:
            return
        say("asking the Debian mirror what there is")
        # Any: a list that cannot be fetched is an error, not a warning.
        done = await self._apt(["-q", "update", "--error-on=any"], self._directory, limits.UPDATE_SECONDS)
        if done.returncode == 0:
            _write(stamp, sources)
        elif known:
            say("the Debian mirror does not answer; going on with what it said before")
        else:
            raise NoMirror(f"the Debian mirror does not answer: {_last_words(done.stderr)}", hint=_HINT)

    async def _apt(self, arguments: Sequence[str], cwd: Path, seconds: float) -> subprocess.CompletedProcess[bytes]:
        """What apt-get said; a negative status where it did not end in time."""
        environment = {**os.environ, "APT_CONFIG": str(self._directory / "apt.conf"), "LC_ALL": "C.UTF-8"}
        command = [_APT, *arguments]
        with trio.move_on_after(seconds):
            return await trio.run_process(
                command,
                cwd=cwd,
                env=environment,
                stdin=subprocess.DEVNULL,
                capture_stdout=True,
                capture_stderr=True,
                check=False,
            )
        return subprocess.CompletedProcess(command, -1, b"", f"E: no end after {seconds:.0f} s".encode())


def _source_files(sources: Path | None) -> list[tuple[str, str]]:
    if sources is not None:
        try:
            return [(sources.name, sources.read_text())]
        except (OSError, UnicodeDecodeError) as error:
            raise Refused(f"the apt sources file cannot be read: {error}") from None
    etc = Path("/etc/apt")
    files = [etc / "sources.list", *sorted((etc / "sources.list.d").glob("*.list"))]
    files += sorted((etc / "sources.list.d").glob("*.sources"))
    return [(file.name, file.read_text(errors="replace")) for file in files if file.is_file()]


def _host_acquire() -> str:
    """The host's proxies and what else it says about fetching."""
    done = subprocess.run(
        ["apt-config", "dump", "--format", '%F "%v";%n', "Acquire"], capture_output=True, text=True, check=False
    )
    kept = ("Acquire::http", "Acquire::https", "Acquire::ftp", "Acquire::Check-", "Acquire::socks")
    lines = (line for line in done.stdout.splitlines() if line.startswith(kept) and not line.endswith(' "";'))
    return "".join(f"{line}\n" for line in lines)


def _package(match: re.Match[str]) -> Package:
    name, version, _ = unquote(match["file"]).removesuffix(".deb").split("_")
    size = int(match["size"])
    if size > limits.PACKAGE_BYTES_MAX:
        raise GuestSourceBad(f"the package {name} has {size} bytes; that cannot be right")
    return Package(name, version, match["file"], size, match["sha256"])


def _is_whole(path: Path, package: Package) -> bool:
    try:
        if path.stat().st_size != package.size:
            return False
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == package.sha256
    except FileNotFoundError:
        return False


def _last_words(stderr: bytes) -> str:
    lines = [line for line in stderr.decode("utf-8", "replace").splitlines() if line.startswith(("E:", "W:"))]
    return " ".join(lines)[: limits.APT_WORDS] or "apt-get said nothing"


def _write(path: Path, text: str) -> None:
    temporary = path.with_name(f"{path.name}.new")
    temporary.write_text(text)
    temporary.replace(path)
