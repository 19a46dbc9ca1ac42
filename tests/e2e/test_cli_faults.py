"""What people get wrong at a terminal: the status, a line, a hint, no traceback, no secret; with --json an object."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.cli_faults import FAULTS, SECRET, Fault, Stage, make_stage
from tests.support.nodes import Node, running

pytestmark = [pytest.mark.real("root", "fuse", "erofs", "nspawn"), pytest.mark.slow]

_SPEAKING = ("show", "checkout", "share", "daemon", "boots")
"""Commands of which one fault for each status is played again with --json."""


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    top = tmp_path_factory.mktemp("faults")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        yield make_stage(top, taken)


def play(stage: Stage, fault: Fault, *more: str) -> subprocess.CompletedProcess[str]:
    node = Node(stage.node.home, environment=fault.environment)
    return node.run(*stage.argv(fault), *more)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.line)
def test_what_is_wrong_is_told_in_a_line_and_a_hint(stage: Stage, fault: Fault) -> None:
    done = play(stage, fault)
    assert (done.returncode, done.stdout) == (fault.status, ""), done.stderr
    lines = [line for line in done.stderr.splitlines() if not line.startswith("hypernode: looking")]
    assert len(lines) == 2, done.stderr
    assert lines[0].startswith("hypernode: ")
    assert fault.words in lines[0]
    assert lines[1].startswith("  hint: ")
    assert SECRET not in done.stderr
    assert "\x1b" not in done.stderr


@pytest.mark.parametrize(("closing", "status"), [("<&-", 0), (">&-", 0), ("2>&-", 0), ("<&- >&- 2>&-", 0)])
def test_streams_that_the_caller_closed_lead_nowhere(stage: Stage, closing: str, status: int) -> None:
    wrapper = ["sh", "-c", f'exec "$@" {closing}', "sh"]
    for words in (["images"], ["boot", stage.words["link"], "--", "/file"]):
        done = stage.node.run(*words, wrapper=wrapper)
        assert "Traceback" not in done.stderr
        assert done.returncode == (status if words == ["images"] else 126), done.stderr


@pytest.mark.parametrize(
    "fault",
    list({fault.status: fault for fault in FAULTS if fault.line.split()[0] in _SPEAKING}.values()),
    ids=lambda fault: fault.line,
)
def test_programs_are_told_it_in_json(stage: Stage, fault: Fault) -> None:
    done = play(stage, fault, "--json")
    assert (done.returncode, done.stdout) == (fault.status, "")
    (error,) = (said["error"] for line in done.stderr.splitlines() if "error" in (said := json.loads(line)))
    codes = {2: "usage", 3: "not_found", 4: "refused", 5: "conflict", 6: "unavailable", 7: "corrupt"}
    assert error["code"] == codes[fault.status]
    assert fault.words in error["message"]
    assert error["hint"]


def test_without_a_home_directory_the_password_file_says_where_it_is(tmp_path: Path) -> None:
    node = Node(tmp_path / "home")
    argv = ["env", "-u", "HOME", "-u", "XDG_DATA_HOME", *node.argv("config", "show", "--json")]
    done = subprocess.run(argv, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_reader_that_goes_away_is_no_traceback(stage: Stage) -> None:
    for words in (["--help"], ["images"], ["config", "show"]):
        read_end, write_end = os.pipe()
        os.close(read_end)
        with running(stage.node.start(*words, stdout=write_end)) as process:
            os.close(write_end)
            _, err = process.communicate(timeout=120)
        assert (process.returncode in (0, 1), err) == (True, ""), words


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_command_that_waits_can_be_stopped(stage: Stage, number: signal.Signals) -> None:
    heard = ["env", "--default-signal=HUP"]  # whoever runs the tests under nohup has it ignored
    with running(stage.node.start("events", "--since", "1h", "--json", wrapper=heard)) as process:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["action"]  # it runs
        process.send_signal(number)
        out, err = process.communicate(timeout=120)
    assert process.returncode == 128 + number, err
    assert "Traceback" not in err + out
