"""An image version: the value of a log entry that publishes a root tree.

It names the manifest, how to run the image (the part of an OCI configuration that nspawn can honour), where it came
from, and what people want to see in a list. Figures and times in it are the author's word: shown, never relied upon.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from hyperlog.encoding import Encodable, Value, decode, encode
from hyperlog.errors import Corrupt
from hyperlog.ids import BlockId, EntryId, ManifestId
from hyperlog.limits import ENTRY_VALUE_BYTES_MAX
from images.errors import ImageTooNew, VersionCorrupt
from images.ingest import StoredBlock
from images.limits import (
    APPARENT_BYTES_MAX,
    BLOCK_STORED_MAX,
    CONFIG_LIST_MAX,
    CONFIG_TEXT_BYTES_MAX,
    DIFFERENCE_BYTES_MAX,
    ENTRIES_MAX,
    MANIFEST_BYTES_MAX,
    MESSAGE_BYTES_MAX,
    NAME_CHARACTERS_MAX,
)
from images.manifest_store import ManifestRef
from images.tree import piece_count

FORMAT: Final = 1
KIND_KEY: Final = "image"
"""Present in the value of every entry that is an image version, whatever its format."""

_ID_BYTES: Final = 32
_LENGTH_BYTES: Final = 4
_CREATED_MAX: Final = 1 << 40
_TAG: Final = re.compile(r"[A-Za-z][A-Za-z0-9._+-]{0,127}")
_NUMBER_LIKE: Final = re.compile(r"[vV]?[0-9]+")
_USER: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}(:[A-Za-z0-9_][A-Za-z0-9_.-]{0,63})?")
_PLATFORM: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}")
_PORT: Final = re.compile(r"[1-9][0-9]{0,4}/(tcp|udp|sctp)")
_SIGNAL: Final = re.compile(r"SIG[A-Z0-9+-]{1,16}|[1-9][0-9]?")
_NANOSECONDS_MAX: Final = 1 << 62
_CONTROL: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
"""Control characters but tab and newline, which environment values may hold (systemd draws the line there too)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Healthcheck:
    """How to tell whether a container works, as in Docker's configuration; times in nanoseconds, 0 for the default.

    `test` begins with CMD (then an argument vector), CMD-SHELL (then one command line) or NONE (then nothing).
    """

    test: tuple[str, ...]
    interval: int = 0
    timeout: int = 0
    start_period: int = 0
    retries: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """How to run the image, as in OCI; `env` holds NAME=VALUE, `user` is NAME or NAME:GROUP, or numbers.

    `volumes` are directories, `ports` are PORT/tcp, PORT/udp or PORT/sctp, `labels` (name, value), all three sorted and
    each once; `stop_signal` is a name (SIGTERM) or a number, empty for the default.
    """

    os: str
    arch: str
    cmd: tuple[str, ...] = ()
    entrypoint: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    user: str = ""
    workdir: str = ""
    volumes: tuple[str, ...] = ()
    ports: tuple[str, ...] = ()
    labels: tuple[tuple[str, str], ...] = ()
    stop_signal: str = ""
    healthcheck: Healthcheck | None = None

    @property
    def command(self) -> tuple[str, ...]:
        return self.entrypoint + self.cmd

    def argv(self, entrypoint: str | None, command: Sequence[str]) -> tuple[str, ...]:
        """What runs: `command` takes the place of `cmd`; so does `entrypoint` ("" for none), which leaves no `cmd`."""
        program = self.entrypoint if entrypoint is None else (entrypoint,) if entrypoint else ()
        return (*program, *(command or (self.cmd if entrypoint is None else ())))


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageVersion:
    """One version. `created` is in seconds since 1970 by the author's clock; sizes are in bytes."""

    manifest: ManifestRef
    config: Config
    parent: EntryId | None = None
    name: str = ""
    tag: str | None = None
    message: str = ""
    created: int = 0
    image_bytes: int = 0
    stored_bytes: int = 0
    inodes: int = 0

    def encode(self) -> bytes:
        """The entry's value. Raises `VersionCorrupt` for a version that `decode` would refuse."""
        encoded = encode(_record(self))
        decode_version(encoded)
        return encoded


def is_version(value: bytes) -> bool:
    """Whether an entry's value says that it is an image version, valid or not."""
    try:
        record = decode(value, bytes_max=ENTRY_VALUE_BYTES_MAX)
    except Corrupt:
        return False
    return isinstance(record, dict) and KIND_KEY in list(record)


def decode_version(value: bytes) -> ImageVersion:
    """The version that an entry's value spells. Raises `VersionCorrupt`, `ImageTooNew`."""
    try:
        decoded = decode(value, bytes_max=ENTRY_VALUE_BYTES_MAX)
    except Corrupt as error:
        raise VersionCorrupt(f"not an image version: {error.message}") from None
    fields = _Fields(decoded)
    form = fields.number(KIND_KEY, 1 << 32)
    if form != FORMAT:
        raise ImageTooNew(f"the image version has format {form}", "it needs a newer hypernode")
    parent = fields.optional_octets("parent")
    version = ImageVersion(
        manifest=_manifest_ref(fields.inner("manifest")),
        config=_config(fields.inner("config")),
        parent=None if parent is None else EntryId(_sized(parent)),
        name=fields.text("name"),
        tag=fields.optional_text("tag"),
        message=fields.text("message"),
        created=fields.number("created", _CREATED_MAX),
        image_bytes=fields.number("image_bytes", APPARENT_BYTES_MAX),
        stored_bytes=fields.number("stored_bytes", APPARENT_BYTES_MAX),
        inodes=fields.number("inodes", ENTRIES_MAX + 1),
    )
    fields.end()
    if not valid_name(version.name):
        _refuse("the name has control characters or is too long")
    if len(version.message.encode()) > MESSAGE_BYTES_MAX or _CONTROL.search(version.message):
        _refuse("the message has control characters or is too long")
    if version.tag is not None and not valid_tag(version.tag):
        _refuse("the tag is malformed")
    return version


def valid_name(name: str) -> bool:
    """Whether `name` (may be empty) can be a version's name."""
    return len(name) <= NAME_CHARACTERS_MAX and (not name or name.isprintable())


def valid_tag(tag: str) -> bool:
    """Whether `tag` can be one: it can stand in a link and does not look like a number."""
    return _TAG.fullmatch(tag) is not None and _NUMBER_LIKE.fullmatch(tag) is None


def _record(version: ImageVersion) -> dict[str, Encodable]:
    manifest, config = version.manifest, version.config
    return {
        KIND_KEY: FORMAT,
        "manifest": _manifest_record(manifest),
        "config": {
            "os": config.os,
            "arch": config.arch,
            "cmd": config.cmd,
            "entrypoint": config.entrypoint,
            "env": config.env,
            "user": config.user,
            "workdir": config.workdir,
            "volumes": config.volumes,
            "ports": config.ports,
            "labels": dict(config.labels),
            "stop_signal": config.stop_signal,
            "healthcheck": None if config.healthcheck is None else _health_record(config.healthcheck),
        },
        "parent": version.parent,
        "name": version.name,
        "tag": version.tag,
        "message": version.message,
        "created": version.created,
        "image_bytes": version.image_bytes,
        "stored_bytes": version.stored_bytes,
        "inodes": version.inodes,
    }


def _manifest_record(manifest: ManifestRef) -> dict[str, Encodable]:
    return {
        "id": manifest.id,
        "bytes": manifest.raw_bytes,
        "block_ids": b"".join(block.id for block in manifest.pieces),
        "block_stored": b"".join(block.stored_bytes.to_bytes(_LENGTH_BYTES, "little") for block in manifest.pieces),
        "base": None if manifest.base is None else _manifest_record(manifest.base),
    }


def _health_record(check: Healthcheck) -> dict[str, Encodable]:
    return {
        "test": check.test,
        "interval": check.interval,
        "timeout": check.timeout,
        "start_period": check.start_period,
        "retries": check.retries,
    }


def _manifest_ref(fields: _Fields, *, is_base: bool = False) -> ManifestRef:
    identifier = ManifestId(_sized(fields.octets("id")))
    raw_bytes = fields.number("bytes", MANIFEST_BYTES_MAX)
    ids, stored = fields.octets("block_ids"), fields.octets("block_stored")
    inner = fields.optional_inner("base")
    fields.end()
    if inner is not None and is_base:
        _refuse("the manifest is a difference from one that is a difference itself")
    base = None if inner is None else _manifest_ref(inner, is_base=True)
    if base is not None and max(raw_bytes, base.raw_bytes) > DIFFERENCE_BYTES_MAX:
        _refuse("the manifest is too long for a difference")
    count = piece_count(raw_bytes) if base is None else 1
    if not raw_bytes or len(ids) != count * _ID_BYTES or len(stored) != count * _LENGTH_BYTES:
        _refuse("the manifest's blocks are not as many as its length needs")
    blocks = tuple(
        StoredBlock(
            BlockId(ids[number * _ID_BYTES : (number + 1) * _ID_BYTES]),
            int.from_bytes(stored[number * _LENGTH_BYTES : (number + 1) * _LENGTH_BYTES], "little"),
        )
        for number in range(count)
    )
    if not all(0 < block.stored_bytes <= BLOCK_STORED_MAX for block in blocks):
        _refuse("a block of the manifest has an impossible size")
    return ManifestRef(identifier, raw_bytes, blocks, base)


def _config(fields: _Fields) -> Config:
    config = Config(
        os=fields.text("os"),
        arch=fields.text("arch"),
        cmd=fields.texts("cmd"),
        entrypoint=fields.texts("entrypoint"),
        env=fields.texts("env"),
        user=fields.text("user"),
        workdir=fields.text("workdir"),
        volumes=fields.texts("volumes"),
        ports=fields.texts("ports"),
        labels=tuple(sorted(fields.pairs("labels"))),
        stop_signal=fields.text("stop_signal"),
        healthcheck=_healthcheck(fields.optional_inner("healthcheck")),
    )
    fields.end()
    _check_how_to_run(config)
    if not all(map(_valid_workdir, config.volumes)) or not _is_sorted(config.volumes):
        _refuse("the volumes are not plain absolute paths, sorted")
    if not all(_PORT.fullmatch(port) for port in config.ports) or not _is_sorted(config.ports):
        _refuse("the ports are malformed or not sorted")
    if any(not name or not name.isprintable() or "\0" in value for name, value in config.labels):
        _refuse("a label is malformed")
    if config.stop_signal and not _SIGNAL.fullmatch(config.stop_signal):
        _refuse("the stop signal is malformed")
    return config


def _check_how_to_run(config: Config) -> None:
    if not _PLATFORM.fullmatch(config.os) or not _PLATFORM.fullmatch(config.arch):
        _refuse("the operating system or architecture is malformed")
    if any("\0" in argument for argument in config.command):
        _refuse("an argument of the command has NUL in it")
    for variable in config.env:
        name, equals, value = variable.partition("=")
        if not name or not equals or not name.isprintable() or " " in name or _CONTROL.search(value):
            _refuse("an environment variable is malformed")
    if config.user and not _USER.fullmatch(config.user):
        _refuse("the user is malformed")
    if config.workdir and not _valid_workdir(config.workdir):
        _refuse("the working directory is not a plain absolute path inside the image")


def _healthcheck(fields: _Fields | None) -> Healthcheck | None:
    if fields is None:
        return None
    check = Healthcheck(
        test=fields.texts("test"),
        interval=fields.number("interval", _NANOSECONDS_MAX),
        timeout=fields.number("timeout", _NANOSECONDS_MAX),
        start_period=fields.number("start_period", _NANOSECONDS_MAX),
        retries=fields.number("retries", 1 << 31),
    )
    fields.end()
    match check.test:
        case ("NONE",) | ("CMD-SHELL", _) | ("CMD", _, *_) if not any("\0" in part for part in check.test):
            return check
    raise VersionCorrupt("image version: the health check is malformed")


def _is_sorted(values: tuple[str, ...]) -> bool:
    """Sorted, and each once."""
    return all(before < after for before, after in itertools.pairwise(values))


def _valid_workdir(workdir: str) -> bool:
    # Below /proc a path can lead out of the container's root: runc's CVE-2024-21626 was such a working directory.
    parts = workdir.split("/")
    return workdir.startswith("/") and workdir.isprintable() and ".." not in parts and parts[1] != "proc"


def _sized(value: bytes) -> bytes:
    if len(value) != _ID_BYTES:
        _refuse("an id of odd length")
    return value


def _refuse(rule: str) -> None:
    raise VersionCorrupt(f"image version: {rule}")


class _Fields:
    """The typed fields of one decoded map; `end` refuses what nobody asked for."""

    def __init__(self, value: Value) -> None:
        self._left: dict[object, Value] = dict(value.items()) if isinstance(value, dict) else {}

    def _take(self, key: str) -> Value:
        if key not in self._left:
            raise VersionCorrupt(f"image version without {key}")
        return self._left.pop(key)

    def _wrong(self, key: str) -> VersionCorrupt:
        return VersionCorrupt(f"image version: {key} is malformed or beyond the limit")

    def number(self, key: str, most: int) -> int:
        match self._take(key):
            case bool():
                raise self._wrong(key)
            case int(number) if 0 <= number <= most:
                return number
        raise self._wrong(key)

    def octets(self, key: str) -> bytes:
        match self._take(key):
            case bytes(value):
                return value
        raise self._wrong(key)

    def optional_octets(self, key: str) -> bytes | None:
        match self._take(key):
            case None:
                return None
            case bytes(value):
                return value
        raise self._wrong(key)

    def text(self, key: str) -> str:
        match self._take(key):
            case str(value) if len(value) <= CONFIG_TEXT_BYTES_MAX:
                return value
        raise self._wrong(key)

    def optional_text(self, key: str) -> str | None:
        if self._left.get(key, "") is None:
            del self._left[key]
            return None
        return self.text(key)

    def texts(self, key: str) -> tuple[str, ...]:
        value = self._take(key)
        if not isinstance(value, list) or len(value) > CONFIG_LIST_MAX:
            raise self._wrong(key)
        return tuple(_argument(part, self._wrong(key)) for part in value)

    def inner(self, key: str) -> _Fields:
        value = self._take(key)
        if not isinstance(value, Mapping):
            raise self._wrong(key)
        return _Fields(value)

    def optional_inner(self, key: str) -> _Fields | None:
        if self._left.get(key, "") is None:
            del self._left[key]
            return None
        return self.inner(key)

    def pairs(self, key: str) -> list[tuple[str, str]]:
        """A map of texts."""
        value = self._take(key)
        if not isinstance(value, dict) or len(value) > CONFIG_LIST_MAX:
            raise self._wrong(key)
        wrong = self._wrong(key)
        return [(_argument(name, wrong), _argument(text, wrong)) for name, text in value.items()]

    def end(self) -> None:
        if self._left:
            raise ImageTooNew("the image version has parts unknown here", "it needs a newer hypernode")


def _argument(part: object, wrong: VersionCorrupt) -> str:
    if not isinstance(part, str) or len(part.encode()) > CONFIG_TEXT_BYTES_MAX:
        raise wrong
    return part
