"""What is committed names no machine, no registry and no unfinished business."""

from __future__ import annotations

import re

import pytest

from tests.support.sources import TOP, all_files

# One letter of each stands in brackets, so that this file does not name what it looks for.
FORBIDDEN = {
    "a path of somebody's machine": r"/(work|root|home/[a-z]+)/",
    "a package registry's host": r"pyp[i]\.(org|python)|pythonhoste[d]|(deb|snapshot)\.debia[n]|registry\.npmj[s]",
    "unfinished business": r"\b(TOD[O]|FIXM[E]|XX[X])\b",
    "a stub": r"NotImplementedErro[r]",
}
LICENCE_TEXT = {"LICENSE"}


def findings(text: str) -> list[str]:
    """`line number: what` for each forbidden thing."""
    return [
        f"{number}: {what}"
        for number, line in enumerate(text.splitlines(), 1)
        for what, pattern in FORBIDDEN.items()
        if re.search(pattern, line)
    ]


def test_files_are_clean() -> None:
    files = [path for path in all_files() if path not in LICENCE_TEXT]
    assert len(files) > 20
    found = {path: findings((TOP / path).read_bytes().decode("utf-8", "replace")) for path in files}
    assert {path: lines for path, lines in found.items() if lines} == {}


def test_lock_files_hold_versions_and_hashes_only() -> None:
    locks = [path for path in all_files() if path.endswith(".lock")]
    assert len(locks) == 3
    for path in locks:
        for line in (TOP / path).read_text().splitlines():
            assert re.fullmatch(r"#.*|[a-z0-9-]+==\S+( ; [^/]*)? \\|    --hash=sha256:[0-9a-f]{64}( \\)?", line), (
                path,
                line,
            )
            assert "://" not in line


@pytest.mark.parametrize(
    "line",
    ["open('/wor" + "k/x')", "see /roo" + "t/.cache", "# TO" + "DO: later", "https://py" + "pi.org/simple"],
)
def test_a_planted_line_is_found(line: str) -> None:
    assert findings(line) != []
