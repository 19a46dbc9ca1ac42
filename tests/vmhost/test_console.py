"""Containers in the foreground: streams, terminal, signals, exit codes, and that nothing of them stays."""

from __future__ import annotations

import hashlib
import os
import pty
import signal
import socket
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest

from tests.vmhost.support import TOP, SmallImage, image, needs_programs, start_boot
from vmhost.host_probe import kernel_version
from vmhost.nspawn import propagation_directory
from vmhost.stale import clear_crashed_run

__all__ = ["image"]  # a fixture

pytestmark = [pytest.mark.real, needs_programs]


def boot(
    place: Path, image: SmallImage, script: str, given: bytes = b"", **environment: str
) -> subprocess.CompletedProcess[bytes]:
    """`sh -c script` with `given` on stdin."""
    process = start_boot(
        place,
        image,
        ["sh", "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | environment,
    )
    out, err = process.communicate(given, timeout=60)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def wait_for(descriptor: int, text: bytes) -> bytes:
    """Reads until `text` has come."""
    seen = b""
    while text not in seen:
        more = os.read(descriptor, 65536)
        assert more, f"ended after {seen!r}"
        seen += more
    return seen


@pytest.mark.parametrize(
    ("script", "code"),
    [
        ("exit 0", 0),
        ("exit 7", 7),
        ("exit 255", 255),
        ("kill -9 $$", 137),
        ("kill -TERM $$", 143),
        ("kill -SEGV $$", 139),
    ],
)
def test_the_exit_code_is_the_programs(tmp_path: Path, image: SmallImage, script: str, code: int) -> None:
    assert (boot(tmp_path, image, script).returncode, code) == (code, code)


def test_in_another_network_namespace(tmp_path: Path, image: SmallImage) -> None:
    command = [sys.executable, "-m", "tests.vmhost.boot_once", str(tmp_path), image.metadata, image.blob]
    done = subprocess.run(
        ["unshare", "--net", "--", *command, "sh", "-c", "echo out; kill -9 $$"],
        cwd=TOP,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )
    # Nobody there tells how processes end but the pidfd, on kernels where that does.
    assert done.returncode == (137 if kernel_version(os.uname().release) >= (6, 15) else 255)
    assert (done.stdout, done.stderr) == (b"out\n", b"")


def test_streams_are_kept_apart_and_whole(tmp_path: Path, image: SmallImage) -> None:
    given = bytes(range(256)) * 5000
    done = boot(tmp_path, image, "cat; echo to-stderr >&2", given)
    assert done.stdout == given
    assert done.stderr == b"to-stderr\n"
    assert done.returncode == 0


def test_order_is_kept_where_stdout_and_stderr_are_one(tmp_path: Path, image: SmallImage) -> None:
    script = "for i in 1 2 3 4 5 6 7 8 9; do echo o$i; echo e$i >&2; done"
    process = start_boot(
        tmp_path,
        image,
        ["sh", "-c", script],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
    )
    out, _ = process.communicate(timeout=60)
    assert out == b"".join(b"o%d\ne%d\n" % (i, i) for i in range(1, 10))


def test_stdin_from_a_file_is_passed_and_cannot_be_written(tmp_path: Path, image: SmallImage) -> None:
    given = tmp_path / "given"
    given.write_bytes(b"text\n" * 100_000)
    with given.open("rb") as source:
        script = "wc -c; echo spoiled 2>/dev/null > /proc/self/fd/0"
        process = start_boot(tmp_path, image, ["sh", "-c", script], stdin=source, stdout=subprocess.PIPE)
        out, _ = process.communicate(timeout=60)
    assert out == b"500000\n"
    assert given.read_bytes() == b"text\n" * 100_000


def test_a_socket_as_stdin_and_stdout(tmp_path: Path, image: SmallImage) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        process = start_boot(tmp_path, image, ["cat"], stdin=theirs, stdout=theirs)
        theirs.close()
        ours.sendall(b"echo")
        assert ours.recv(100) == b"echo"
        ours.shutdown(socket.SHUT_WR)
        assert ours.recv(100) == b""
        assert process.wait(60) == 0


def test_a_gigabyte_is_relayed_in_bounded_memory(tmp_path: Path, image: SmallImage) -> None:
    process = start_boot(
        tmp_path,
        image,
        ["dd", "if=/dev/zero", "bs=1M", "count=1024"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert process.stdout is not None
    with process.stdout as out:
        total, most = 0, 0
        while piece := out.read(1 << 20):
            total += len(piece)
            most = max(most, resident_kib(process.pid))
    assert total == 1 << 30
    assert most < 150_000
    assert process.wait(60) == 0


def resident_kib(pid: int) -> int:
    """What the process holds in memory; 0 when it has ended."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next((int(line.split()[1]) for line in lines if line.startswith("VmRSS")), 0)


def test_who_does_not_read_holds_the_program_up(tmp_path: Path, image: SmallImage) -> None:
    script = "yes | dd bs=4k count=1000 2>/dev/null; echo done > /data/done; echo wrote >&2"
    process = start_boot(
        tmp_path, image, ["sh", "-c", script], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stderr is not None
    with process.stdout as out, process.stderr as err:
        time.sleep(1)  # bounded: nothing is awaited, it must stay blocked
        os.set_blocking(err.fileno(), False)
        assert err.read() is None
        os.set_blocking(err.fileno(), True)
        assert len(out.read()) == 4096 * 1000
        assert err.read() == b"wrote\n"
    assert process.wait(60) == 0


def test_a_reader_that_goes_away_breaks_the_pipe(tmp_path: Path, image: SmallImage) -> None:
    process = start_boot(tmp_path, image, ["yes"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    assert process.stdout is not None
    with process.stdout as out:
        assert out.read(10) == b"y\n" * 5
    assert process.wait(60) == 128 + signal.SIGPIPE


def test_a_full_disk_is_an_error_not_silence(tmp_path: Path, image: SmallImage) -> None:
    with open("/dev/full", "wb") as full:
        process = start_boot(
            tmp_path, image, ["echo", "lost"], stdin=subprocess.DEVNULL, stdout=full, stderr=subprocess.PIPE
        )
        _, err = process.communicate(timeout=60)
    assert process.returncode == 99
    assert b"OutputFailed" in err
    assert b"No space left on device" in err


@pytest.mark.parametrize("number", ["INT", "TERM", "HUP", "QUIT", "USR1", "USR2"])
def test_signals_reach_the_program_itself(tmp_path: Path, image: SmallImage, number: str) -> None:
    script = f"trap 'echo got; exit 21' {number}; echo ready; while :; do sleep 0.05; done"
    process = start_boot(tmp_path, image, ["sh", "-c", script], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    assert process.stdout is not None
    with process.stdout as out:
        assert wait_for(out.fileno(), b"ready\n")
        process.send_signal(getattr(signal, f"SIG{number}"))
        assert wait_for(out.fileno(), b"got\n")
    assert process.wait(60) == 21


def test_a_program_that_a_forwarded_signal_ends(tmp_path: Path, image: SmallImage) -> None:
    process = start_boot(
        tmp_path, image, ["sh", "-c", "echo ready; exec sleep 60"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    with process.stdout as out:
        wait_for(out.fileno(), b"ready\n")
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130


def test_the_third_interrupt_kills(tmp_path: Path, image: SmallImage) -> None:
    script = "trap 'echo no' INT TERM; echo ready; while :; do sleep 0.05; done"
    process = start_boot(tmp_path, image, ["sh", "-c", script], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    assert process.stdout is not None
    with process.stdout as out:
        wait_for(out.fileno(), b"ready\n")
        for number in (signal.SIGINT, signal.SIGTERM):
            process.send_signal(number)
            wait_for(out.fileno(), b"no\n")
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 137


@pytest.mark.slow
def test_interrupted_at_any_moment_of_the_start(tmp_path: Path, image: SmallImage) -> None:
    for step in range(20):
        process = start_boot(
            tmp_path, image, ["sleep", "60"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        time.sleep(0.25 + step * 0.02)  # walks over imports, mounts, nspawn's set-up and the program
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=60)
        # Before run_container listens, the signal ends Python itself: what it mounted by then, the next run clears.
        assert process.returncode in (143, -signal.SIGTERM), (step, process.returncode, out, err)
        clear_crashed_run(str(tmp_path))


def test_a_terminal_goes_through(tmp_path: Path, image: SmallImage) -> None:
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (33, 101))
    before = termios.tcgetattr(theirs)
    process = start_boot(
        tmp_path, image, ["sh", "-c", "tty; stty size; exec sh -i"], stdin=theirs, stdout=theirs, stderr=theirs
    )
    try:
        assert b"/dev/pts/" in wait_for(ours, b"33 101")
        assert not termios.tcgetattr(theirs)[3] & termios.ICANON
        termios.tcsetwinsize(theirs, (44, 120))
        process.send_signal(signal.SIGWINCH)
        wait_for(ours, b"# ")
        # The new size travels as a signal through two processes: asked for until it has arrived.
        os.write(ours, b"until [ \"$(stty size)\" = '44 120' ]; do sleep 0.01; done; echo re''sized\n")
        wait_for(ours, b"resized")
        os.write(ours, b"sh -c 'echo st''arted; exec sleep 60'\n")
        wait_for(ours, b"started")
        os.write(ours, b"\x03")
        wait_for(ours, b"^C")
        os.write(ours, b"exit 4\n")
        wait_for(ours, b"exit 4")
        assert process.wait(60) == 4
        assert termios.tcgetattr(theirs) == before
    finally:
        os.close(ours)
        os.close(theirs)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_the_terminal_is_restored_after_a_signal(tmp_path: Path, image: SmallImage, number: int) -> None:
    ours, theirs = pty.openpty()
    before = termios.tcgetattr(theirs)
    process = start_boot(
        tmp_path, image, ["sh", "-c", "echo ready; exec sleep 60"], stdin=theirs, stdout=theirs, stderr=theirs
    )
    try:
        wait_for(ours, b"ready")
        process.send_signal(number)
        assert process.wait(60) == 128 + number
        assert termios.tcgetattr(theirs) == before
    finally:
        os.close(ours)
        os.close(theirs)


def test_a_terminal_that_hangs_up_ends_the_program(tmp_path: Path, image: SmallImage) -> None:
    ours, theirs = pty.openpty()
    process = start_boot(
        tmp_path,
        image,
        ["sh", "-c", "echo ready; exec sleep 60"],
        stdin=theirs,
        stdout=theirs,
        stderr=subprocess.DEVNULL,
    )
    os.close(theirs)
    wait_for(ours, b"ready")
    os.close(ours)
    assert process.wait(60) == 128 + signal.SIGHUP


def test_users_of_the_image(tmp_path: Path, image: SmallImage) -> None:
    script = "id -u; id -g; id -G; pwd; echo $HOME; echo opened > /dev/stdout"
    done = boot(tmp_path, image, script, AS="worker")
    assert done.stdout.split() == b"1000 1001 1001 7 / /data opened".split()
    assert boot(tmp_path, image, script, AS="4321:workers").stdout.split() == b"4321 1001 1001 / / opened".split()
    assert b"no user" in boot(tmp_path, image, script, AS="nobody").stderr


def test_what_the_image_has_in_run_is_there(tmp_path: Path, image: SmallImage) -> None:
    script = "cat /run/ser:vice/state; echo more > /run/ser:vice/new && cat /run/ser:vice/new"
    for who in ("root", "worker"):
        assert boot(tmp_path, image, script, AS=who).stdout == b"kept\nmore\n"


def test_killed_outright_it_leaves_no_container(tmp_path: Path, image: SmallImage) -> None:
    process = start_boot(
        tmp_path, image, ["sh", "-c", "echo ready; exec sleep 6543"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    with process.stdout as out:
        wait_for(out.fileno(), b"ready\n")
        process.kill()
        process.wait(60)
        assert out.read() == b""  # nobody inside holds it any more
    cleared = clear_crashed_run(str(tmp_path))
    beside = {path for path in cleared.mounts if not path.startswith(f"{tmp_path}/")}
    assert set(cleared.mounts) - beside == {
        str(tmp_path / name) for name in ("fuse", "lower", "scratch", "root", "image-run")
    }
    assert beside <= {propagation_directory(f"test-{process.pid}")}
    assert clear_crashed_run(str(tmp_path)).mounts == ()


def test_the_next_run_works_after_a_crash(tmp_path: Path, image: SmallImage) -> None:
    process = start_boot(
        tmp_path, image, ["sh", "-c", "echo ready; exec sleep 60"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    with process.stdout as out:
        wait_for(out.fileno(), b"ready\n")
        process.kill()
        process.wait(60)
    clear_crashed_run(str(tmp_path))
    digest = hashlib.md5((image.root / "data/file1").read_bytes(), usedforsecurity=False).hexdigest()
    done = boot(tmp_path, image, "cat /data/file1")
    assert hashlib.md5(done.stdout, usedforsecurity=False).hexdigest() == digest


def test_nobody_delivers_the_program(tmp_path: Path, image: SmallImage) -> None:
    started = time.monotonic()
    done = boot(tmp_path, image, "echo never", HOLD="1")
    assert done.returncode not in (0, 99)
    assert done.stdout == b""
    assert b"Input/output error" in done.stderr
    assert time.monotonic() - started < 2 * 1.0 + 5  # twice the deadline: the kernel asks again


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_ended_while_nobody_delivers(tmp_path: Path, image: SmallImage, number: int) -> None:
    process = start_boot(
        tmp_path,
        image,
        ["sh", "-c", "echo never"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | {"HOLD": "60"},
    )
    assert process.stdout is not None
    assert process.stderr is not None
    with process.stdout as out, process.stderr as err:
        wait_for(err.fileno(), b"waiting\n")
        started = time.monotonic()
        process.send_signal(number)
        assert process.wait(60) == (143 if number == signal.SIGTERM else -signal.SIGKILL)
        assert out.read() == b""
        assert time.monotonic() - started < 5
    clear_crashed_run(str(tmp_path))


def test_missing_programs_are_named(tmp_path: Path, image: SmallImage) -> None:
    process = start_boot(tmp_path, image, ["no-such-program"], stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
    _, err = process.communicate(timeout=60)
    assert b"ProgramNotFound" in err
    assert b"no-such-program" in err
    process = start_boot(tmp_path, image, ["/data/file0"], stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
    _, err = process.communicate(timeout=60)
    assert b"ProgramNotExecutable" in err
