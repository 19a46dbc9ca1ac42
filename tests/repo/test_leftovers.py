"""The check after each test finds what tests leave behind; shown on test files of their own, run by a second pytest."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.sources import TOP

_SLEEPER = "[sys.executable, '-c', 'import time; time.sleep(600)']"


def run_pytest(folder: Path, body: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the body as a test file under this project's conftest and settings."""
    (folder / "conftest.py").write_text("from tests.conftest import *\n")
    (folder / "test_planted.py").write_text(f"import os, subprocess, sys, threading\nimport pytest\n{body}\n")
    argv = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", f"--config-file={TOP / 'pyproject.toml'}"]
    return subprocess.run(
        [*argv, f"--rootdir={folder}", f"--basetemp={folder / 'temporary'}", os.fspath(folder)],
        cwd=TOP,
        env={**os.environ, "PYTHONPATH": os.fspath(TOP), **environment},
        check=False,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        (f"keep = []\ndef test_it():\n    keep.append(subprocess.Popen({_SLEEPER}))", "process "),
        (f"def test_it():\n    subprocess.run(['setsid', '--fork', *{_SLEEPER}])", "process "),
        ("keep = []\ndef test_it():\n    keep.append(open(__file__))", "open file "),
        ("keep = []\ndef test_it():\n    keep.append(os.pipe())", "open file pipe (2 more)"),
        (
            (
                "stop = threading.Event()\n"
                "def test_it():\n    threading.Thread(target=stop.wait, name='t9', daemon=True).start()"
            ),
            "thread t9",
        ),
    ],
)
def test_leftovers_fail_the_test(tmp_path: Path, body: str, complaint: str) -> None:
    done = run_pytest(tmp_path, body)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "left behind:" in done.stdout
    assert complaint in done.stdout


@pytest.mark.slow
@pytest.mark.real("root")
def test_a_mount_left_behind_fails_the_test_and_is_undone(tmp_path: Path) -> None:
    done = run_pytest(
        tmp_path, "def test_it(tmp_path):\n    subprocess.run(['mount', '-t', 'tmpfs', 'x', tmp_path], check=True)"
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert "mount " in done.stdout
    assert str(tmp_path) not in Path("/proc/self/mountinfo").read_text()


@pytest.mark.slow
@pytest.mark.parametrize(("ci", "code"), [("true", 1), ("", 0)])
def test_in_ci_a_file_of_real_tests_must_not_skip_whole(tmp_path: Path, ci: str, code: int) -> None:
    done = run_pytest(tmp_path, "@pytest.mark.real\ndef test_it():\n    pytest.skip('no such thing here')", CI=ci)
    assert done.returncode == code, done.stdout + done.stderr


@pytest.mark.slow
def test_in_ci_one_real_test_that_runs_is_enough(tmp_path: Path) -> None:
    body = "@pytest.mark.real()\ndef test_a():\n    pytest.skip('no')\n@pytest.mark.real('tc')\ndef test_b():\n    pass"
    assert run_pytest(tmp_path, body, CI="true").returncode == 0
