"""200 000 seeded executions over every entry point. A failure names target, seed and number.

`HYPERNODE_SEED` picks other inputs, `HYPERNODE_FUZZ_EXECUTIONS` more of them; `python -m tests.hyperlog.fuzz_atheris`
does the same guided by coverage.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Final

import pytest

from tests.hyperlog.fuzz_decoders import Target
from tests.hyperlog.fuzz_mutator import Mutator
from tests.hyperlog.fuzz_targets import open_targets

_EXECUTIONS: Final = int(os.environ.get("HYPERNODE_FUZZ_EXECUTIONS", "200000"))
_SEED: Final = int(os.environ.get("HYPERNODE_SEED", "1"))
_SECONDS_MAX: Final = 1.0
"""One execution; far above what any needs, so that only a hang or work beyond the input's size exceeds it."""


@pytest.mark.slow
def test_no_bytes_break_a_reader(tmp_path: Path) -> None:
    with open_targets(tmp_path) as kinds:
        assert len(kinds) >= 12
        whole = sum(kind.share for kind in kinds)
        done = sum(_run(kind, -(-_EXECUTIONS * kind.share // whole)) for kind in kinds)
    assert done >= _EXECUTIONS


def _run(kind: Target, executions: int) -> int:
    mutator = Mutator(kind.corpus, _SEED)
    for number in range(executions):
        data = mutator.next()
        start = time.process_time()
        try:
            kind.run(data)
        except Exception as error:
            error.add_note(f"target {kind.name!r}, seed {_SEED}, execution {number}: {data[:400].hex()}")
            raise
        taken = time.process_time() - start
        assert taken < _SECONDS_MAX, f"target {kind.name!r}, seed {_SEED}, execution {number} took {taken:.1f} s"
    return executions
