"""Layouts, archives and compressed layers: what is refused, and by what name; what is kept of a configuration."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import zstandard

from hyperlog.errors import HyperError
from hyperlog.repository import Repository, open_repository
from images.errors import (
    AmbiguousSource,
    ArchiveCorrupt,
    DigestMismatch,
    ImageSourceCorrupt,
    ImportChanged,
    ImportStopped,
    NoSuchPlatform,
    SourceTooLarge,
    SourceUnsupported,
)
from images.image_source import FileSystem, Opened, file_system_in, open_stack
from images.import_layers import Layer, import_layers
from images.layer_stream import LayerStream
from images.oci_config import convert_config, make_config
from images.oci_image import Platform
from images.version import Healthcheck
from tests.images.layers import Entry, folder, layout, sha256, tar

AMD64 = Platform("linux", "amd64")
LAYER = tar([folder("a/"), Entry("a/x", "x" * 1000)])


@pytest.fixture
def repository(tmp_path: Path) -> Iterator[Repository]:
    with open_repository(tmp_path / "home") as opened:
        yield opened


def opened(path: Path, wanted: Platform = AMD64, name: str | None = None) -> Opened:
    with open_stack(path, path.parent, wanted, name, lambda: False) as found:
        return found


def imported(repository: Repository, path: Path) -> list[bytes]:
    """The paths of what was imported."""
    with open_stack(path, path.parent, AMD64, None, lambda: False) as found:
        made = import_layers(
            found.stack.layers,
            path.parent,
            repository.blocks,
            repository.ingest_index,
            progress=lambda _stage, _progress: None,
            should_stop=lambda: False,
        )
    return [name for name, _ in made.manifest.walk()]


def rewrite(image: Path, change: Callable[[dict[str, Any]], object], *, manifest: bool = True) -> None:
    """Change the manifest of a layout (or only the index), digests made right again."""
    index = json.loads((image / "index.json").read_text())
    entry = index["manifests"][0]
    if manifest:
        document = json.loads((image / "blobs/sha256" / entry["digest"][7:]).read_text())
        change(document)
        data = json.dumps(document).encode()
        (image / "blobs/sha256" / sha256(data)[7:]).write_bytes(data)
        entry["digest"], entry["size"] = sha256(data), len(data)
    else:
        change(index)
    (image / "index.json").write_text(json.dumps(index))


def in_layer(**fields: Any) -> Callable[[dict[str, Any]], object]:
    return lambda document: document["layers"][0].update(fields)


BAD_MANIFESTS: dict[str, tuple[Callable[[dict[str, Any]], object], type[HyperError], str]] = {
    "digest that climbs": (in_layer(digest="sha256:../../x"), ImageSourceCorrupt, "malformed digest"),
    "digest in capitals": (in_layer(digest="sha256:" + "AB" * 32), ImageSourceCorrupt, "malformed digest"),
    "sha1": (in_layer(digest="sha1:" + "ab" * 20), ImageSourceCorrupt, "malformed digest"),
    "no digest": (in_layer(digest=""), ImageSourceCorrupt, "malformed digest"),
    "missing blob": (in_layer(digest="sha256:" + "ab" * 32), ImageSourceCorrupt, "cannot be read"),
    "wrong size": (in_layer(size=5), ImageSourceCorrupt, "instead of 5"),
    "no size": (in_layer(size=None), ImageSourceCorrupt, "without a size"),
    "foreign": (in_layer(urls=["https://elsewhere.example/x"]), SourceUnsupported, "foreign"),
    "encrypted": (
        in_layer(mediaType="application/vnd.oci.image.layer.v1.tar+gzip+encrypted"),
        SourceUnsupported,
        "encrypted",
    ),
    "no layer": (in_layer(mediaType="application/vnd.cncf.helm.chart.v1.tar"), SourceUnsupported, "no layer"),
    "both kinds": (lambda document: document.update(manifests=[]), ImageSourceCorrupt, "media type"),
    "lying kind": (
        lambda document: document.update(mediaType="application/vnd.oci.image.index.v1+json"),
        ImageSourceCorrupt,
        "media type",
    ),
    "a layer twice": (
        lambda document: document["layers"].append(document["layers"][0]),
        ImageSourceCorrupt,
        "as many layers",
    ),
    "500 layers": (lambda document: document["layers"].extend(document["layers"] * 499), SourceTooLarge, "500 layers"),
}


@pytest.mark.parametrize("name", BAD_MANIFESTS)
def test_a_bad_manifest_has_a_name(name: str, repository: Repository, tmp_path: Path) -> None:
    change, kind, message = BAD_MANIFESTS[name]
    image = layout(tmp_path / "image", [LAYER])
    rewrite(image, change)
    with pytest.raises(kind, match=message):
        imported(repository, image)


def test_a_changed_layer_is_told_by_its_digest(repository: Repository, tmp_path: Path) -> None:
    image = layout(tmp_path / "image", [LAYER], compress=False)
    blob = image / "blobs/sha256" / sha256(LAYER)[7:]
    blob.write_bytes(LAYER.replace(b"xxx", b"yyy", 1))
    with pytest.raises(DigestMismatch, match="its digest"):
        imported(repository, image)


def test_a_wrong_diff_id_is_told(repository: Repository, tmp_path: Path) -> None:
    image = layout(tmp_path / "image", [LAYER])
    other = layout(tmp_path / "other", [tar([Entry("other")])])
    config: list[Any] = []
    rewrite(other, lambda document: config.append(document["config"]))
    (image / "blobs/sha256" / config[0]["digest"][7:]).write_bytes(
        (other / "blobs/sha256" / config[0]["digest"][7:]).read_bytes()
    )
    rewrite(image, lambda document: document.update(config=config[0]))
    with pytest.raises(DigestMismatch, match="diffID"):
        imported(repository, image)


def test_traps_in_a_folder_are_not_followed(tmp_path: Path) -> None:
    for number, trap in enumerate(("index", "blobs", "fifo")):
        image = layout(tmp_path / str(number), [LAYER])
        if trap == "index":
            (image / "index.json").rename(image / "real")
            (image / "index.json").symlink_to("real")
        elif trap == "blobs":
            (image / "blobs").rename(tmp_path / "elsewhere")
            (image / "blobs").symlink_to("../elsewhere")
        else:
            (image / "index.json").unlink()
            os.mkfifo(image / "index.json")
        with pytest.raises(ImageSourceCorrupt):
            opened(image)


def test_indexes_that_never_end_are_given_up(tmp_path: Path) -> None:
    image = layout(tmp_path / "image", [LAYER])
    kind = "application/vnd.oci.image.index.v1+json"
    entry = json.loads((image / "index.json").read_text())["manifests"][0]
    for _ in range(8):
        data = json.dumps({"schemaVersion": 2, "mediaType": kind, "manifests": [entry]}).encode()
        (image / "blobs/sha256" / sha256(data)[7:]).write_bytes(data)
        entry = {"mediaType": kind, "digest": sha256(data), "size": len(data)}
    (image / "index.json").write_text(json.dumps({"manifests": [entry]}))
    with pytest.raises(SourceTooLarge, match="nested deeper"):
        opened(image)
    (image / "index.json").write_text(json.dumps({"manifests": [{"mediaType": "other/kind"}] * 10_000}))
    with pytest.raises(SourceTooLarge, match="more than 1024"):
        opened(image)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":1,"a":2}', "nul", "[]", '{"manifests":7}', " " * (5 << 20)])
def test_documents_that_are_none(text: str, tmp_path: Path) -> None:
    image = layout(tmp_path / "image", [LAYER])
    (image / "index.json").write_text(text)
    with pytest.raises((ImageSourceCorrupt, SourceTooLarge)):
        opened(image)


def test_platforms_and_names_choose(tmp_path: Path) -> None:
    image = layout(tmp_path / "image", [LAYER])
    with pytest.raises(NoSuchPlatform, match="there is: linux/amd64"):
        opened(image, Platform("linux", "arm64"))

    def several(index: dict[str, Any]) -> None:
        (entry,) = index["manifests"]
        index["manifests"] = [
            {**entry, "annotations": {"org.opencontainers.image.ref.name": name}} for name in ("one", "two")
        ]

    rewrite(image, several, manifest=False)
    with pytest.raises(AmbiguousSource, match="several"):
        opened(image)
    with pytest.raises(AmbiguousSource, match="no image 'three'"):
        opened(image, name="three")
    assert opened(image, name="two").kind == "an OCI layout"


def archive(path: Path, files: dict[str, bytes], links: dict[str, str] | None = None) -> Path:
    with tarfile.open(path, "w") as out:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            out.addfile(info, io.BytesIO(data))
        for name, target in (links or {}).items():
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.SYMTYPE, target
            out.addfile(info)
    return path


def docker_files(layers: int = 1) -> dict[str, bytes]:
    config = json.dumps(
        {
            "os": "linux",
            "architecture": "amd64",
            "rootfs": {"diff_ids": [sha256(LAYER)] * layers},
            "config": {"User": "u"},
        }
    ).encode()
    paths = [f"{number}/layer.tar" for number in range(layers)]
    listed = [{"Config": "c.json", "RepoTags": ["web:1"], "Layers": paths}]
    return {"0/layer.tar": LAYER, "c.json": config, "manifest.json": json.dumps(listed).encode()}


def test_docker_archives(repository: Repository, tmp_path: Path) -> None:
    """A layer that occurs twice is a symlink in them; a compressed archive is one as well."""
    path = archive(tmp_path / "image.tar", docker_files(2), {"1/layer.tar": "../0/layer.tar"})
    assert (opened(path).kind, opened(path).stack.config.user) == ("a docker archive", "u")
    assert imported(repository, path) == [b"", b"a", b"a/x"]
    packed = tmp_path / "image.tar.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    assert imported(repository, packed) == [b"", b"a", b"a/x"]
    with pytest.raises(SourceUnsupported, match="before Docker"):
        opened(archive(tmp_path / "old.tar", {"repositories": b"{}"}))
    escaping = {**docker_files(), "manifest.json": b'[{"Config":"../../etc/passwd","Layers":[]}]'}
    with pytest.raises(ImageSourceCorrupt, match="the archive has no"):
        opened(archive(tmp_path / "escape.tar", escaping))


def test_layouts_in_a_tar(repository: Repository, tmp_path: Path) -> None:
    image = layout(tmp_path / "image", [LAYER])
    with tarfile.open(tmp_path / "image.tar", "w") as out:
        out.add(image, ".")
    assert opened(tmp_path / "image.tar").kind == "an OCI layout in a tar"
    assert imported(repository, tmp_path / "image.tar") == [b"", b"a", b"a/x"]


def test_bare_tars_must_be_whole(repository: Repository, tmp_path: Path) -> None:
    path = tmp_path / "root.tar"
    path.write_bytes(LAYER)
    assert not opened(path).has_config
    assert imported(repository, path) == [b"", b"a", b"a/x"]
    path.write_bytes(LAYER[:2048])
    with pytest.raises(ArchiveCorrupt, match="cut short"):
        imported(repository, path)
    path.write_bytes(b"hsqs" + os.urandom(5000))
    with pytest.raises(ArchiveCorrupt, match="no tar header at byte 0"):
        opened(path)


def test_an_archive_that_changes_while_it_is_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "root.tar"
    path.write_bytes(LAYER)
    with (
        pytest.raises(ImportChanged, match="changed while it was read"),
        open_stack(path, tmp_path, AMD64, None, lambda: False),
    ):
        path.write_bytes(LAYER + bytes(512))


class Memory:
    def __init__(self, data: bytes) -> None:
        self._file = io.BytesIO(data)
        self.size = len(data)

    def read(self, size: int, /) -> bytes:
        return self._file.read(size)

    def close(self) -> None:
        return


def expanded(data: bytes, *, limit: int = 1 << 40) -> bytes:
    stream = LayerStream(Memory(data), digest=None, diff_id=None, limit=limit)
    parts = []
    while part := stream.read(1 << 16):
        parts.append(part)
    stream.finish()
    return b"".join(parts)


def test_compressions() -> None:
    plain = os.urandom(200_000) + bytes(100_000)
    half = len(plain) // 2
    members = gzip.compress(plain[:half]) + gzip.compress(plain[half:])
    frames = zstandard.compress(plain[:half]) + zstandard.compress(plain[half:])
    for data in (plain, gzip.compress(plain), members, members + bytes(5000), zstandard.compress(plain), frames):
        assert expanded(data) == plain


@pytest.mark.parametrize(
    ("data", "kind", "message"),
    [
        (gzip.compress(LAYER)[:-20], ArchiveCorrupt, "cut short"),
        (gzip.compress(LAYER) + b"junk", ArchiveCorrupt, "junk"),
        (b"\x1f\x8b" + os.urandom(500), ArchiveCorrupt, "damaged"),
        (b"\x28\xb5\x2f\xfd" + b"\xff" * 500, ArchiveCorrupt, "damaged"),
        (b"\xfd7zXZ\0" + bytes(100), SourceUnsupported, "xz"),
        (b"BZh9" + bytes(100), SourceUnsupported, "bzip2"),
    ],
)
def test_damaged_compression(data: bytes, kind: type[HyperError], message: str) -> None:
    with pytest.raises(kind, match=message):
        expanded(data)


def test_bombs_are_stopped() -> None:
    with pytest.raises(SourceTooLarge, match="expand to more"):
        expanded(gzip.compress(bytes(1 << 22)), limit=1 << 20)
    compressor = zstandard.ZstdCompressor(level=3).compressobj()
    bomb = b"".join(compressor.compress(bytes(1 << 24)) for _ in range(70)) + compressor.flush()
    stream = LayerStream(Memory(bomb), digest=None, diff_id=None, limit=1 << 40)
    with pytest.raises(SourceTooLarge, match="a bomb"):
        stream.finish()


def test_an_import_stops_when_asked(repository: Repository, tmp_path: Path) -> None:
    with pytest.raises(ImportStopped):
        import_layers(
            [Layer(lambda: Memory(LAYER), len(LAYER))],
            tmp_path,
            repository.blocks,
            repository.ingest_index,
            progress=lambda _stage, _progress: None,
            should_stop=lambda: True,
        )


def test_configurations_are_kept_and_come_back() -> None:
    inner = {
        "User": "web:www",
        "ExposedPorts": {"80/tcp": {}, "53/udp": {}},
        "Env": ["PATH=/bin", "EMPTY="],
        "Entrypoint": ["/entry"],
        "Cmd": ["-x"],
        "Volumes": {"/data": {}},
        "WorkingDir": "/srv",
        "Labels": {"a.b": "c"},
        "StopSignal": "SIGQUIT",
        "Healthcheck": {"Test": ["CMD", "true"], "Interval": 5_000_000_000, "Retries": 3},
    }
    notes: list[str] = []
    config = convert_config({"os": "linux", "architecture": "arm64", "config": inner}, notes)
    assert notes == []
    assert config.healthcheck == Healthcheck(test=("CMD", "true"), interval=5_000_000_000, retries=3)
    assert (config.ports, config.volumes, config.labels) == (("53/udp", "80/tcp"), ("/data",), (("a.b", "c"),))
    assert make_config(config) == inner


def test_what_a_configuration_cannot_keep_is_noted() -> None:
    notes: list[str] = []
    inner = {"Shell": ["bash"], "Env": ["NOVALUE", "A=b"], "ExposedPorts": {"80": {}, "x": {}}, "StopSignal": "term"}
    config = convert_config({"config": {**inner, "Healthcheck": {"Test": ["WHAT"]}}}, notes)
    assert (config.env, config.ports, config.stop_signal, config.healthcheck) == (
        ("A=b",),
        ("80/tcp",),
        "SIGTERM",
        None,
    )
    assert len(notes) == 4
    with pytest.raises(ImageSourceCorrupt, match="Env"):
        convert_config({"config": {"Env": "A=b"}}, notes)


def test_a_digest_of_another_kind_is_verified_too() -> None:
    digest = "sha512:" + hashlib.sha512(LAYER).hexdigest()
    stream = LayerStream(Memory(LAYER), digest=digest, diff_id=digest, limit=1 << 30)
    stream.finish()
    with pytest.raises(DigestMismatch):
        LayerStream(Memory(LAYER + b"x"), digest=digest, diff_id=None, limit=1 << 30).finish()


def test_an_ext_image_that_is_cut_short_is_none(tmp_path: Path) -> None:
    path = tmp_path / "image"
    head = bytearray(2048)
    head[1024 + 4 : 1024 + 8] = (25).to_bytes(4, "little")
    head[1024 + 24] = 2  # blocks of 4 KiB
    head[1024 + 56 : 1024 + 58] = b"\x53\xef"
    path.write_bytes(head)
    with pytest.raises(ImageSourceCorrupt, match="2048 of 102400 bytes"):
        file_system_in(path)
    os.truncate(path, 102_399)
    with pytest.raises(ImageSourceCorrupt, match="cut short"):
        file_system_in(path)
    os.truncate(path, 102_400)
    assert file_system_in(path) is FileSystem.EXT
    head[1024 + 96], head[1024 + 336] = 128, 1  # 2³² blocks more
    path.write_bytes(head)
    with pytest.raises(ImageSourceCorrupt, match="cut short"):
        file_system_in(path)
