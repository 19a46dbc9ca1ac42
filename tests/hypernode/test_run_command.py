"""Arguments that are refused before anything is begun, and output that cannot be written."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import pytest

from hypernode.cli.run_command import run_command
from hypernode.exit_codes import EXIT_OK


@pytest.mark.parametrize(
    ("verb", "arguments", "words"),
    [
        ("top", {"interval": math.nan}, "nan makes no sense as interval"),
        ("stop", {"containers": ["web"], "seconds": math.inf}, "inf makes no sense as seconds"),
        ("share", {"source": ""}, "the source has no name"),
    ],
)
def test_what_means_nothing_is_refused_in_words(
    capsys: pytest.CaptureFixture[str], verb: str, arguments: dict[str, object], words: str
) -> None:
    assert run_command(verb, config_file=None, flags={}, arguments=arguments) not in (EXIT_OK, 1)
    told = capsys.readouterr().err
    assert words in told
    assert "hint: " in told


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("words", [["--version"], ["completion", "bash"]])
def test_a_full_disk_below_standard_output_is_told(words: list[str], unbuffered: str) -> None:
    command = [sys.executable, "-m", "hypernode", *words]
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=120, env={"PYTHONUNBUFFERED": unbuffered}
        )
    assert done.returncode == 6
    assert done.stderr.startswith("hypernode: standard output cannot be written to: No space left on device\n  hint: ")


def test_containers_of_what_is_no_home_are_refused_in_words(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    command = [sys.executable, "-m", "hypernode", "--home", str(tmp_path / "file"), "ps"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (done.returncode, "cannot be used as a home" in done.stderr) == (4, True), done.stderr


def test_notes_that_cannot_be_written_change_nothing() -> None:
    with open("/dev/full", "wb") as full:
        assert subprocess.run([sys.executable, "-m", "hypernode", "nothing"], stderr=full, timeout=120).returncode == 2
