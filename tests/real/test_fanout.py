"""Four daemons on slow uplinks pull one image from one seeder at the same moment, as people would."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.fanout import fan_out


@pytest.mark.slow
@pytest.mark.real("root", "netns", "tc")
def test_four_who_pull_at_once_take_about_one_copy_from_the_seeder(tmp_path: Path) -> None:
    found = fan_out(tmp_path, 4, 16 << 20, 20)
    # 1.06 on a quiet machine; on one with much else to do the others pass on less. Without each other it would be 4.
    assert found["seeder_ratio"] <= 1.6, found
    assert found["duplicate_ratio"] <= 0.03, found
