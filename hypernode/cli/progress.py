"""Long work on standard error: bars for a person, silence for a pipe, JSON lines for a program that asked (--json).

Notes are lines in any case.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, Self

from hypernode.cli.tables import in_a_line

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID


class Speech:
    """How this process speaks on standard error."""

    as_json: ClassVar[bool] = False


def note(text: str) -> None:
    """One line for the person, or the program."""
    if Speech.as_json:
        _print_json("note", {"text": text})
    else:
        print(f"hypernode: {in_a_line(text)}", file=sys.stderr, flush=True)


def _print_json(kind: str, fields: Mapping[str, Any]) -> None:
    print(json.dumps({"event": kind, **fields}), file=sys.stderr, flush=True)


class EventPrinter:
    """Turns an operation's events into bars and lines. Use as a context manager.

    Bars begin with the first progress there is to show: what draws them takes a tenth of a second to import.
    """

    def __init__(self) -> None:
        self._shows_bars = False
        self._bars: Progress | None = None
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> Self:
        self._shows_bars = sys.stderr.isatty() and not Speech.as_json
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._shows_bars = False
        if self._bars is not None:
            self._bars.stop()
            self._bars = None

    def __call__(self, kind: str, fields: Mapping[str, Any]) -> None:
        if Speech.as_json:
            _print_json(kind, {name: value for name, value in fields.items() if name != "event"})
        elif kind == "progress":
            self._progress(str(fields["stage"]), int(fields["done"]), fields.get("total"))
        elif kind == "note":
            self._note(str(fields["text"]))
        elif kind == "stage" and str(fields["stage"]).startswith("still "):
            self._note(str(fields["stage"]))

    def _note(self, text: str) -> None:
        if self._bars is not None:
            self._bars.console.print(f"hypernode: {in_a_line(text)}", markup=False, highlight=False)
        else:
            note(text)

    def _progress(self, stage: str, done: int, total: int | None) -> None:
        if not self._shows_bars:
            return
        if self._bars is None:
            self._bars = _make_bars()
            self._bars.start()
        if stage not in self._tasks:
            self._tasks[stage] = self._bars.add_task(stage, total=total)
        self._bars.update(self._tasks[stage], completed=done, total=total)


def _make_bars() -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )
