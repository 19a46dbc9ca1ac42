"""Columns of tables on narrow terminals: pure."""

from __future__ import annotations

import pytest

from hypernode.cli.tables import cut, fitting


@pytest.mark.parametrize(
    ("widths", "least", "room", "fitted"),
    [
        ([4, 30, 60], [4, 8, 20], 200, [4, 30, 60]),
        ([4, 30, 60], [4, 8, 20], 74, [4, 30, 40]),
        ([4, 30, 60], [4, 8, 20], 54, [4, 25, 25]),
        ([4, 30, 60], [4, 8, 20], 32, [4, 8, 20]),
        ([4, 30, 60], [4, 8, 20], 10, [4, 8, 20]),  # no terminal is for that
        ([4, 5, 60], [4, 8, 20], 30, [4, 5, 21]),  # narrower than it might be anyway
    ],
)
def test_the_widest_columns_give_first(widths: list[int], least: list[int], room: int, fitted: list[int]) -> None:
    assert fitting(widths, least, room) == fitted


def test_what_is_cut_says_so() -> None:
    assert (cut("hyper", 5), cut("hyper", 4)) == ("hyper", "hyp…")
