"""What is written to the log, and what is not."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from pathlib import Path

import pytest

from hypernode.events import EventLog
from hypernode.logs import JsonFormatter, TextFormatter, hide, without_secrets

LINK = "hyper://ybndrfg8ejkmcpqxot1uwisza345h769ybndrfg8ejkmcpqxot1u"


def record(message: str, *arguments: object, failed: bool = False) -> logging.LogRecord:
    info = None
    if failed:
        try:
            raise ValueError(f"in {LINK}")
        except ValueError:
            info = sys.exc_info()
    return logging.LogRecord("hypernode.test", logging.ERROR, __file__, 1, message, arguments, info)


def test_an_object_a_line_with_the_traceback_inside() -> None:
    line = JsonFormatter().format(record("two\nlines of %s", LINK, failed=True))
    assert "\n" not in line
    fields = json.loads(line)
    assert fields["level"] == "error"
    assert fields["logger"] == "hypernode.test"
    assert fields["message"] == "two\nlines of hyper://ybndrfg8…"
    assert "ValueError: in hyper://ybndrfg8…" in fields["error"]
    assert fields["time"].endswith("+00:00")


def test_text_has_no_secret_either() -> None:
    line = TextFormatter().format(record("%s", LINK, failed=True))
    assert line.startswith("hypernode.test: hyper://ybndrfg8…\nTraceback")
    assert LINK not in line


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Authorization: Bearer abcdefghijkl", "Authorization: Bearer …"),
        ("authorization=abcdefghijkl", "authorization=…"),
        ("{'password': 'hunter2hunter2'}", "{'password': '…'}"),
        ("GET /x?token=abcdefghijkl&a=b", "GET /x?token=…&a=b"),
        ("the token in /srv/keys/http-token", "the token in /srv/keys/http-token"),
        ("hyper://short", "hyper://short"),
    ],
)
def test_what_is_announced_as_secret_is_masked(text: str, shown: str) -> None:
    assert without_secrets(text) == shown


def test_what_is_known_to_be_secret_is_masked_anywhere() -> None:
    assert without_secrets("x a-known-secret y") == "x a-known-secret y"
    hide("a-known-secret")
    assert without_secrets("x a-known-secret y") == "x … y"


async def test_what_happens_is_logged_with_its_fields(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "hypernode.events"), EventLog(tmp_path / "events.jsonl") as events:
        events.emit("image", "pull", LINK, version=3)
    (said,) = caplog.records
    fields = json.loads(JsonFormatter().format(said))
    assert fields["message"] == "image pull hyper://ybndrfg8…"
    assert fields["event"]["attributes"] == {"version": "3"}
    assert LINK not in json.dumps(fields)


@pytest.mark.parametrize(
    ("level", "said"), [("error", "failed"), ("warning", "own failed"), ("info", "own odd failed")]
)
def test_libraries_say_their_errors_and_from_info_on_their_warnings(level: str, said: str) -> None:
    script = f"""
import logging
from hypernode.logs import set_up_logging
set_up_logging({level!r}, "text", with_tracebacks=True)
logging.getLogger("hypernode.x").warning("own")
logging.getLogger("libp2p.x").warning("odd")
logging.getLogger("libp2p.x").error("failed")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert [line.split(": ")[1] for line in done.stderr.splitlines()] == said.split()


@pytest.mark.parametrize(
    ("level", "stays", "shown"), [("error", False, False), ("info", False, True), ("error", True, True)]
)
def test_tracebacks_are_for_who_stays_or_asks_for_more(level: str, stays: bool, shown: bool) -> None:
    script = f"""
import logging
from hypernode.logs import set_up_logging
set_up_logging({level!r}, "text", with_tracebacks={stays})
try: 1 / 0
except ZeroDivisionError: logging.getLogger("hypernode.x").exception("failed")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert done.stderr.startswith("hypernode.x: failed\n")
    assert ("Traceback" in done.stderr) == shown
