"""What is decided about containers without running any: policies, ports, wishes, what is kept on disk."""

from __future__ import annotations

import io
import itertools
import json
import os
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from hyperlog.errors import Conflict, HyperError, NotFound, Refused, Unavailable
from hypernode.api.container_requests import CreateContainer
from hypernode.cli import tar_files
from hypernode.cli.container_options import environment
from hypernode.cli.detach_keys import DETACH_KEYS, DetachKeys, parse_keys
from hypernode.containers.keeper import parse_signal
from hypernode.containers.logs import LogWriter, read_log, shown
from hypernode.containers.model import DEAD, EXITED, RUNNING, ContainerState
from hypernode.containers.policy import RestartPolicy, next_delay, parse_policy
from hypernode.containers.ports import Port, parse_port
from hypernode.containers.store import ContainerStore
from hypernode.containers.wishes import check
from hypernode.limits import CONTAINER_LOG_BYTES_MIN, LOG_LINE_BYTES_MAX

LINK = "hyper://key"
ASKED = CreateContainer(LINK)


@pytest.mark.parametrize(
    ("text", "outcomes"),
    [  # (exit code, restarts so far, stopped by a person) → again?
        ("no", {(1, 0, False): False, (0, 0, False): False}),
        ("always", {(0, 0, False): True, (1, 99, False): True, (1, 0, True): False}),
        ("unless-stopped", {(0, 5, False): True, (0, 0, True): False}),
        ("on-failure", {(0, 0, False): False, (1, 1000, False): True, (1, 0, True): False}),
        ("on-failure:2", {(1, 1, False): True, (1, 2, False): False, (0, 0, False): False}),
    ],
)
def test_who_is_run_again(text: str, outcomes: dict[tuple[int, int, bool], bool]) -> None:
    policy = parse_policy(text)
    assert {
        (code, restarts, stopped): policy.wants(code, restarts, stopped=stopped) for code, restarts, stopped in outcomes
    } == outcomes


def test_who_is_run_when_the_daemon_starts() -> None:
    wants = {
        (text, stopped): parse_policy(text).wants_at_start(stopped=stopped)
        for text in ("no", "on-failure", "always", "unless-stopped")
        for stopped in (False, True)
    }
    assert {key for key, wanted in wants.items() if wanted} == {
        ("always", False),
        ("always", True),
        ("unless-stopped", False),
    }


def test_who_keeps_failing_is_run_less_and_less_often() -> None:
    delays = [0.0]
    for _ in range(14):
        delays.append(next_delay(delays[-1], ran_seconds=0.1))
    assert delays[1] == pytest.approx(0.1)
    steps = list(itertools.pairwise(delays[1:]))
    assert all(later == pytest.approx(min(60.0, 2 * sooner)) for sooner, later in steps)
    assert delays[-1] == 60.0
    assert next_delay(60.0, ran_seconds=11) == pytest.approx(0.1)


@pytest.mark.parametrize("text", ["", "maybe", "always:3", "on-failure:", "on-failure:0", "on-failure:-1", "no:1"])
def test_no_policy(text: str) -> None:
    with pytest.raises(Refused, match="restart policy"):
        parse_policy(text)


@pytest.mark.parametrize(
    ("text", "port"),
    [
        ("8080:80", Port("0.0.0.0", 8080, 80)),
        ("127.0.0.1:8080:80/tcp", Port("127.0.0.1", 8080, 80)),
        ("127.0.0.1::80", Port("127.0.0.1", 0, 80)),
        ("[::1]:8080:80", Port("::1", 8080, 80)),
        ("80", Port("0.0.0.0", 0, 80)),
        ("5353:53/udp", Port("0.0.0.0", 5353, 53, "udp")),
    ],
)
def test_ports(text: str, port: Port) -> None:
    assert parse_port(text) == port


@pytest.mark.parametrize("text", ["", "x", "80:", "0", "70000:80", "80:80/sctp", "1:2:3:4", "80:-1", "٣:80", "1e3:80"])
def test_no_port(text: str) -> None:
    with pytest.raises(Refused):
        parse_port(text)


@pytest.mark.parametrize(
    "wish",
    [
        {"name": "../x"},
        {"name": "-x"},
        {"name": "x" * 129},
        {"restart": "sometimes"},
        {"auto_remove": True, "restart": "always"},
        {"env": ("=x",)},
        {"env": ("A",)},
        {"env": ("A=\0",)},
        {"labels": ("=x",)},
        {"binds": ("/a",)},
        {"binds": ("/a:b",)},
        {"binds": ("/a:/",)},
        {"binds": ("/a:/b/../c",)},
        {"binds": ("/a:/b:rx",)},
        {"binds": ("a/b:/c",)},
        {"network": "bridge"},
        {"network": "host", "ports": ("80:80",)},
        {"ports": ("nonsense",)},
        {"hostname": "a b"},
        {"workdir": "relative"},
        {"cpus": 0.0},
        {"cpus": float("nan")},
        {"memory": 1},
        {"processes": 0},
        {"stop_signal": "NOSUCH"},
        {"stop_signal": "SIGRTMIN+99"},
        {"stop_signal": "TERM+1"},
        {"env": ("A=\udcff",)},
        {"env": ("A=\x1b[31m",)},
        {"stop_seconds": -1.0},
        {"system": True, "user": "nobody"},
        {"system": True, "entrypoint": ""},
    ],
)
def test_what_cannot_be_is_refused_with_words(wish: dict[str, object]) -> None:
    with pytest.raises(Refused) as caught:
        check(replace(ASKED, **wish))  # type: ignore[arg-type]
    assert caught.value.message


def test_what_can_be() -> None:
    check(
        replace(
            ASKED,
            name="web.1",
            env=("A=", "B=x=y\n"),
            binds=("/a:/b:ro", "data:/c"),
            ports=("80",),
            cpus=0.5,
            memory=4 << 20,
            restart="on-failure:3",
            stop_signal="SIGINT",
        )
    )


@pytest.mark.parametrize(
    ("text", "number"), [("TERM", 15), ("sigkill", 9), ("1", 1), ("SIGRTMIN+3", 37), ("37", 37), ("rtmin", 34)]
)
def test_signals(text: str, number: int) -> None:
    assert parse_signal(text) == number


def test_environment_of_files_and_options(tmp_path: Path) -> None:
    (tmp_path / "one").write_text("# comment\n\nA=1\nB=2\nHOME_OF_NOBODY\n")
    assert environment(["B=3", "PATH", "NOT_SET_HERE_AT_ALL"], [tmp_path / "one"]) == (
        "A=1",
        "B=3",
        f"PATH={os.environ['PATH']}",
    )
    with pytest.raises(NotFound):
        environment([], [tmp_path / "missing"])


def test_keys_that_detach() -> None:
    keys = DetachKeys(parse_keys(DETACH_KEYS))
    assert keys.take(b"ls\n") == (b"ls\n", False)
    assert keys.take(b"a\x10") == (b"a", False)
    assert keys.take(b"b") == (b"\x10b", False)
    assert keys.take(b"c\x10") == (b"c", False)
    assert keys.take(b"\x10") == (b"\x10", False)
    assert keys.take(b"\x11rest") == (b"", True)
    assert parse_keys("ctrl-a,d,ctrl-]") == b"\x01d\x1d"
    one = DetachKeys(parse_keys("ctrl-\\"))
    assert one.take(b"x\x1cy") == (b"x", True)
    for text in ("", "ctrl-", "ctrl-1", "ctrl-p,,q", "é"):
        with pytest.raises(Refused):
            parse_keys(text)


# What is kept.


@pytest.fixture
def store(tmp_path: Path) -> ContainerStore:
    return ContainerStore(tmp_path / "containers")


def test_a_container_is_found_by_name_id_and_beginning(store: ContainerStore) -> None:
    one, two = store.create(replace(ASKED, name="one")), store.create(ASKED)
    assert [container.spec.name for container in store.list()] == ["one", two.spec.name]
    for text in ("one", one.spec.id, one.spec.id[:12]):
        assert store.get(text).spec == one.spec
    assert store.get("one").read_state() == ContainerState()
    for text in ("", "nosuch"):
        with pytest.raises(NotFound):
            store.get(text)
    with pytest.raises(Conflict, match="taken"):
        store.create(replace(ASKED, name="one"))
    one.remove()
    store.create(replace(ASKED, name="one"))


def test_where_nothing_can_be_written_no_container_is_made(store: ContainerStore, tmp_path: Path) -> None:
    (tmp_path / "containers" / "lock").mkdir(parents=True)
    with pytest.raises(Unavailable, match="the container cannot be kept"):
        store.create(ASKED)


def test_what_is_damaged_is_dead_and_can_be_removed(store: ContainerStore) -> None:
    container = store.create(replace(ASKED, name="one"))
    container.write_state(ContainerState(status=RUNNING))
    for damage in (b"", b"{", b"[]", b'{"status": "dancing"}', b'{"pid": "x"}', b"\xff" * 99, b"[" * 100_000):
        (container.path / "state.json").write_bytes(damage)
        assert store.get("one").read_state().status == DEAD
    (container.path / "spec.json").write_bytes(b"{}")
    damaged = store.get(container.spec.id)
    damaged.remove()
    assert store.list() == []


def test_a_state_comes_back_as_it_was_written(store: ContainerStore) -> None:
    container = store.create(ASKED)
    state = ContainerState(status=EXITED, exit_code=3, command=("sh", "-c", "ü\n"), ports=("0.0.0.0:1->2/tcp",))
    container.write_state(state)
    assert container.read_state() == state


def test_only_one_keeps_a_container(store: ContainerStore) -> None:
    container = store.create(ASKED)
    assert not container.is_kept()
    with container.try_lock() as first, container.try_lock() as second:
        assert (first, second) == (True, False)
        assert container.is_kept()
    assert not container.is_kept()


# Logs.


def test_a_log_gives_back_what_was_printed(tmp_path: Path) -> None:
    writer = LogWriter(tmp_path / "log")
    printed = [("stdout", b"one\ntw"), ("stderr", b"bad \xff\xfe\n"), ("stdout", b"o\n"), ("stdout", b"no end")]
    for stream, data in printed:
        writer.write(stream, data)
    writer.close()
    lines = list(read_log(tmp_path / "log"))
    assert [(line.stream, line.data) for line in lines] == [
        ("stdout", b"one\n"),
        ("stderr", b"bad \xff\xfe\n"),
        ("stdout", b"two\n"),
        ("stdout", b"no end"),
    ]
    assert [line.time for line in lines] == sorted({line.time for line in lines})
    assert [line.data for line in read_log(tmp_path / "log", tail=2)] == [b"two\n", b"no end"]
    later = read_log(tmp_path / "log", since=lines[1].time, until=lines[3].time)
    assert [line.data for line in later] == [b"bad \xff\xfe\n", b"two\n"]
    assert shown(lines[0], timestamps=True).endswith(b"Z one\n")
    assert json.loads(shown(lines[1], as_json=True))["log"].encode("utf-8", "surrogateescape") == b"bad \xff\xfe\n"


@pytest.mark.parametrize("files", [1, 3])
def test_a_log_is_bounded_and_keeps_the_newest(tmp_path: Path, files: int) -> None:
    size = CONTAINER_LOG_BYTES_MIN
    writer = LogWriter(tmp_path / "log", size, files)
    piece = b"".join(b"%08d\n" % number for number in range(4000))  # more than a file takes, once it is JSON
    for _ in range(3):
        writer.write("stdout", piece)
    writer.write("stderr", b"\xff" * LOG_LINE_BYTES_MAX)
    writer.close()
    found = list(tmp_path.iterdir())
    assert len(found) == files
    assert all(path.stat().st_size <= size for path in found)
    lines = list(read_log(tmp_path / "log"))
    assert [line.data for line in lines] == [*piece.splitlines(keepends=True) * 3, b"\xff" * LOG_LINE_BYTES_MAX][
        -len(lines) :
    ]
    assert len(lines) == 1 if files == 1 else len(lines) > size // 100
    assert list(read_log(tmp_path / "log", tail=3)) == lines[-3:]
    assert list(read_log(tmp_path / "log", tail=10**6)) == lines


def test_a_line_without_end_is_kept_in_pieces(tmp_path: Path) -> None:
    writer = LogWriter(tmp_path / "log")
    data = os.urandom(3 * LOG_LINE_BYTES_MAX).replace(b"\n", b"") + b"\n"
    writer.write("stdout", data)
    writer.close()
    lines = list(read_log(tmp_path / "log"))
    assert b"".join(line.data for line in lines) == data
    assert max(len(line.data) for line in lines) == LOG_LINE_BYTES_MAX


def test_a_torn_log_is_read_around_the_tear(tmp_path: Path) -> None:
    writer = LogWriter(tmp_path / "log")
    writer.write("stdout", b"one\n")
    writer.close()
    with (tmp_path / "log").open("ab") as file:
        file.write(b'{"log": "torn\n[]\n{"log": 1, "stream": "stdout", "time": "x"}\n')
    writer = LogWriter(tmp_path / "log")
    writer.write("stdout", b"two\n")
    writer.close()
    assert [line.data for line in read_log(tmp_path / "log")] == [b"one\n", b"two\n"]


def test_the_times_of_a_log_grow_though_the_clock_was_set_back(tmp_path: Path) -> None:
    (tmp_path / "log").write_text('{"log": "one\\n", "stream": "stdout", "time": "2099-01-01T00:00:00.000000Z"}\n')
    writer = LogWriter(tmp_path / "log")
    writer.write("stdout", b"two\n")
    writer.close()
    one, two = read_log(tmp_path / "log")
    assert two.time > one.time  # who follows asks for what is later


# What a container's tar may do here.


def make_tar(*members: tuple[tarfile.TarInfo, bytes]) -> io.BytesIO:
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w|") as archive:
        for member, data in members:
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return io.BytesIO(target.getvalue())


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "", mode: int = 0o644) -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type, made.linkname, made.mode = kind, link, mode
    return made


def hostile() -> Iterator[tuple[str, io.BytesIO]]:
    yield "up", make_tar((member("../out"), b"x"))
    yield "up later", make_tar((member("d", tarfile.DIRTYPE), b""), (member("d/../../out"), b"x"))
    yield "absolute", make_tar((member("/out"), b"x"))
    yield "link", make_tar((member("d/l", tarfile.SYMTYPE, "/"), b""), (member("d/l/out"), b"x"))
    yield "first link", make_tar((member("l", tarfile.SYMTYPE, ".."), b""), (member("l/out"), b"x"))
    yield "hard link", make_tar((member("h", tarfile.LNKTYPE, "../secret"), b""))
    yield (
        "hard link by link",
        make_tar((member("l", tarfile.SYMTYPE, ".."), b""), (member("h", tarfile.LNKTYPE, "l/secret"), b"")),
    )


@pytest.mark.parametrize(("what", "tar"), list(hostile()))
def test_nothing_is_unpacked_elsewhere(tmp_path: Path, what: str, tar: io.BytesIO) -> None:
    (tmp_path / "secret").write_text("secret")
    target = tmp_path / "target"
    target.mkdir()
    with pytest.raises((HyperError, OSError)):
        tar_files.unpack(tar, target, None)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["secret", "target"]
    assert (tmp_path / "secret").stat().st_nlink == 1


def test_a_tree_is_unpacked_under_a_new_name_without_devices_and_setuid(tmp_path: Path) -> None:
    tar = make_tar(
        (member("d", tarfile.DIRTYPE, mode=0o755), b""),
        (member("d/f", mode=0o4755), b"data"),
        (member("d/l", tarfile.SYMTYPE, "f"), b""),
        (member("d/h", tarfile.LNKTYPE, "d/f"), b""),
        (member("d/null", tarfile.CHRTYPE), b""),
    )
    tar_files.unpack(tar, tmp_path, "new")
    new = tmp_path / "new"
    assert sorted(path.name for path in new.iterdir()) == ["f", "h", "l"]
    assert (new / "l").read_bytes() == b"data"
    assert (new / "f").stat().st_mode & 0o7777 == 0o755
    assert (new / "h").samefile(new / "f")
    with pytest.raises(Refused):
        tar_files.unpack(io.BytesIO(b"no tar" * 1000), tmp_path, "new")


@pytest.mark.parametrize("kind", [tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE, None])
def test_what_is_no_file_is_not_said_to_be_copied(tmp_path: Path, kind: bytes | None) -> None:
    tar = make_tar() if kind is None else make_tar((member("null", kind), b""))
    with pytest.raises(Refused):
        tar_files.unpack(tar, tmp_path, "new")
    assert not list(tmp_path.iterdir())


def test_a_directory_is_told_by_the_beginning_of_its_tar(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "f").write_bytes(b"x" * 5000)
    for name, expected in (("d", True), ("f", False)):
        target = io.BytesIO()
        tar_files.pack(tmp_path / name, name, target)
        assert tar_files.is_directory(target.getvalue()[:4096]) is expected


def test_a_policy_is_a_value() -> None:
    assert parse_policy("on-failure:3") == RestartPolicy("on-failure", 3)
