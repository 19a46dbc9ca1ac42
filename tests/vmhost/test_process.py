"""Children that end with us, and what a crash leaves is found: nothing else is touched."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from tests.vmhost.support import TOP
from vmhost.errors import HostUnfit
from vmhost.exit_watch import ExitWatch
from vmhost.payload import shell_code
from vmhost.process import open_child
from vmhost.stale import clear_crashed_run, is_nspawn_under, root_device

PLAIN = {"PATH": os.environ["PATH"]}


async def test_a_child_runs_to_its_end() -> None:
    async with open_child(
        ["sh", "-c", "exit 3"], stdin=0, stdout=1, stderr=2, env=PLAIN, death_signal=signal.SIGKILL
    ) as child:
        assert await child.wait() == 3
        assert await child.wait() == 3
        child.send_signal(signal.SIGTERM)  # harmless
    assert child.exit_status == 3


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "status"), [("echo; exec sleep 60", -15), ("trap '' TERM; echo; while :; do sleep 0.1; done", -9)]
)
async def test_leaving_stops_it(script: str, status: int) -> None:
    reading, writing = os.pipe()
    async with open_child(
        ["sh", "-c", script], stdin=0, stdout=writing, stderr=2, env=PLAIN, death_signal=signal.SIGKILL
    ) as child:
        await trio.lowlevel.wait_readable(reading)
        assert child.exit_status is None
    os.close(reading)
    os.close(writing)
    assert child.exit_status == status


async def test_a_missing_program_is_named() -> None:
    with pytest.raises(HostUnfit, match="no-such-program"):
        async with open_child(["no-such-program"], stdin=0, stdout=1, stderr=2, env=PLAIN, death_signal=signal.SIGKILL):
            pytest.fail("it ran")


@pytest.mark.parametrize("death_signal", ["SIGKILL", "SIGTERM"])
def test_it_dies_with_us_however_long_we_ran(death_signal: str) -> None:
    program = (
        "import os, signal, sys, trio; from vmhost.process import open_child\n"
        "async def main():\n"
        f"    async with open_child(['sleep', '60'], stdin=0, stdout=1, stderr=2, env=dict(os.environ),\n"
        f"                          death_signal=signal.{death_signal}) as child:\n"
        "        print(child.pid, flush=True); await trio.sleep_forever()\n"
        "trio.run(main)"
    )
    process = subprocess.Popen([sys.executable, "-c", program], cwd=TOP, stdout=subprocess.PIPE)
    assert process.stdout is not None
    with process.stdout as out:
        pid = int(out.readline())
        assert Path(f"/proc/{pid}").exists()
        process.kill()
        process.wait(60)
        assert out.read() == b""  # its stdout was the child's as well: both are gone


NSPAWN = ["systemd-nspawn", "--quiet", "--directory=/srv/run/a/root", "--", "sh", "--directory=/elsewhere/root"]


@pytest.mark.parametrize(
    ("words", "directory", "ours"),
    [
        (NSPAWN, "/srv/run", True),
        (["/usr/bin/systemd-nspawn", *NSPAWN[1:]], "/srv/run/", True),
        (NSPAWN, "/srv/ru", False),
        (NSPAWN, "/elsewhere", False),  # that one is the program's own argument
        (["vim", *NSPAWN[1:]], "/srv/run", False),
        (["systemd-nspawn", "--oci-bundle=/srv/run/b"], "/srv/run", True),
        (["systemd-nspawn", "-D", "/srv/run/b"], "/srv/run", False),  # not how we spell it
        ([], "/srv/run", False),
        ([""], "/srv/run", False),
    ],
)
def test_which_processes_are_containers_of_ours(words: list[str], directory: str, ours: bool) -> None:
    assert is_nspawn_under([os.fsencode(word) for word in words], os.fsencode(directory)) is ours


def test_the_root_device_of_a_process() -> None:
    table = b"20 19 0:50 / /proc rw - proc proc rw\n21 19 254:0 / / rw - ext4 a rw\n22 21 0:77 / / rw - overlay b rw\n"
    assert root_device(table) == "0:77"
    assert root_device(b"") is None


@pytest.mark.real("root")
def test_clearing_an_empty_place_harms_nobody(tmp_path: Path) -> None:
    visitor = subprocess.Popen(["sleep", "60"], cwd=tmp_path)
    try:
        cleared = clear_crashed_run(str(tmp_path))
        assert (cleared.processes, cleared.mounts) == ((), ())
        assert visitor.poll() is None
    finally:
        visitor.kill()
        visitor.wait()


@pytest.mark.parametrize(("status", "code"), [(0, 0), (768, 3), (9, 137), (139, 139), (0xFF00, 255)])
def test_codes_as_shells_say_them(status: int, code: int) -> None:
    assert shell_code(status) == code


@pytest.mark.real("root")
def test_deaths_of_others_are_seen() -> None:
    watch = ExitWatch.open()
    if watch is None:
        pytest.skip("missing: the process connector (another network namespace, or a kernel without it)")
    try:
        scripts = ["exit 3", "kill -9 $$", "exit 0", "kill -TERM $$"]
        processes = [subprocess.Popen(["sh", "-c", script]) for script in scripts]
        codes = [process.wait() for process in processes]
        assert codes == [3, -9, 0, -15]
        assert [watch.status_of(process.pid) for process in processes] == [768, 9, None, 15]
        assert watch.status_of_first_child(os.getpid()) in (768, 9, 15)
        assert watch.status_of_first_child(1 << 22) is None
    finally:
        watch.close()


@pytest.mark.parametrize("huge_pages", [False, True])
async def test_a_child_without_huge_pages_leaves_them_to_others(huge_pages: bool) -> None:
    ours, theirs = os.pipe2(os.O_CLOEXEC)
    try:
        async with open_child(
            ["grep", "THP_enabled", "/proc/self/status"],
            stdin=0,
            stdout=theirs,
            stderr=2,
            env=PLAIN,
            death_signal=signal.SIGKILL,
            huge_pages=huge_pages,
        ) as child:
            assert await child.wait() == 0
        assert os.read(ours, 100).split() == [b"THP_enabled:", b"1" if huge_pages else b"0"]
    finally:
        os.close(ours)
        os.close(theirs)
