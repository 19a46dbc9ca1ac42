"""What waits in a container's control groups: it becomes the command that is told, with nothing more than that has."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from tests.vmhost.support import TOP, until
from vmhost.cgroup import hierarchies
from vmhost.nspawn import Limits
from vmhost.standby import Standby, standing_by
from vmhost.users import ROOT

pytestmark = [
    pytest.mark.real("root"),
    pytest.mark.skipif(hierarchies().unified is None and not hierarchies().old, reason="missing: control groups"),
]

_TELL = """
import json, os, sys
print(json.dumps({
    "argv": [os.fsencode(word).hex() for word in sys.argv[1:]], "more": os.environ.get("MORE"),
    "open": sorted(int(name) for name in os.listdir("/proc/self/fd")), "groups": open("/proc/self/cgroup").read(),
}))
"""


def _left(machine: str) -> list[Path]:
    found = hierarchies()
    return [
        top / machine for top in (found.unified, *found.old.values()) if top is not None and (top / machine).exists()
    ]


def _has_ended(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return True
    return state.rpartition(")")[2].split()[0] == "Z"  # of whoever was killed, nobody may have taken notice yet


async def _ended(standby: Standby) -> None:
    with trio.fail_after(120):
        await standby.child.wait()
    await standby.end()


async def test_it_becomes_what_it_is_told(tmp_path: Path) -> None:
    machine, output = f"hypernode-standby{os.getpid()}", tmp_path / "output"
    odd = ["", "a'b\"c", "$HOME `id` \\", "two\nlines\t", os.fsdecode(bytes(range(1, 256))), "x" * 100_000]
    with output.open("wb") as file:
        async with standing_by(machine, Limits(), stdin=0, stdout=file.fileno(), stderr=2, tty=False) as standby:
            assert _left(machine)
            assert standby.streams.output is not None
            source, _ = standby.streams.output
            standby.become([sys.executable, "-c", _TELL, *odd], {"MORE": "it's\nmore"})
            told = b""
            with standby.streams.begun(ROOT), trio.fail_after(120):
                while piece := await source.read():
                    told += piece
            await _ended(standby)
            assert not _left(machine)
    found = json.loads(told)
    assert found["argv"] == [os.fsencode(word).hex() for word in odd]
    assert found["more"] == "it's\nmore"
    assert found["open"] in ([0, 1, 2], [0, 1, 2, 3])  # the last is the listing's own
    assert machine in found["groups"]


async def test_given_up_it_leaves_nothing() -> None:
    machine = f"hypernode-standby{os.getpid()}"
    async with standing_by(machine, Limits(), stdin=0, stdout=1, stderr=2, tty=False) as standby:
        pid = standby.child.pid
    assert _has_ended(pid)
    assert not _left(machine)


def test_it_dies_with_whom_it_waits_for() -> None:
    program = (
        "import os, trio; from vmhost.nspawn import Limits; from vmhost.standby import standing_by\n"
        "async def main():\n"
        "    name = f'hypernode-standby{os.getpid()}'\n"
        "    async with standing_by(name, Limits(), stdin=0, stdout=1, stderr=2, tty=False) as standby:\n"
        "        print(name, standby.child.pid, flush=True)\n"
        "        await trio.sleep_forever()\n"
        "trio.run(main)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], cwd=TOP, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        machine, pid = process.stdout.readline().split()
        process.send_signal(signal.SIGKILL)
        process.wait()
    trio.run(until, lambda: _has_ended(int(pid)), "it has ended")
    for path in _left(machine):
        path.rmdir()
