"""Progress of a long run: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

_LINE_SECONDS = 20.0


class ProgressLine:
    """Shows `done` of `total` with a rate, the time left and a few figures. Use as a context manager.

    Args:
        title: of the run.
        total: units.
        unit: what they are.
        console: standard error by default.
        done: units that an earlier process finished; they count for no rate.
    """

    def __init__(
        self, title: str, total: int, unit: str = "tokens", console: Console | None = None, *, done: int = 0
    ) -> None:
        self._console = console or Console(stderr=True)
        self._title, self._total, self._unit = title, total, unit
        self._first_done = done
        self._started = self._printed = time.monotonic()
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.percentage:>3.0f}% {task.fields[figures]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(elapsed_when_finished=False),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._task = self._bar.add_task(title, total=total, completed=done, figures="")

    def __enter__(self) -> ProgressLine:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def update(self, done: int, **figures: float) -> None:
        """Reports that `done` units are finished."""
        now = time.monotonic()
        rate = (done - self._first_done) / max(now - self._started, 1e-9)
        shown = [
            f"{rate:,.0f} {self._unit}/s",
            *(f"{name.replace('_', ' ')} {value:.4g}" for name, value in figures.items()),
        ]
        self._bar.update(self._task, completed=done, figures="  ".join(shown))
        if not self._console.is_terminal and (now - self._printed >= _LINE_SECONDS or done >= self._total):
            self._printed = now
            if rate > 0:
                shown.append(f"left {max(0, self._total - done) / rate:,.0f} s")
            share = done / max(self._total, 1)
            self._console.print("  ".join([f"{self._title} {share:.0%}", *shown]), highlight=False)
