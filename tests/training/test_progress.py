"""Lines that a run prints where there is no terminal."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from training import progress
from training.progress import ProgressLine


def _lines(monkeypatch: pytest.MonkeyPatch, *updates: tuple[float, int], done: int = 0) -> list[str]:
    """What is printed when `(seconds, done)` come with a total of 100."""
    now = 0.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    out = io.StringIO()
    with ProgressLine("train", 100, console=Console(file=out, width=100), done=done) as line:
        for seconds, count in updates:
            now = seconds
            line.update(count, loss=0.5)
    return out.getvalue().splitlines()


def test_rate_and_time_left_are_known_from_the_first_step(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _lines(monkeypatch, (20, 40), (21, 50)) == ["train 40%  2 tokens/s  loss 0.5  left 30 s"]


def test_what_an_earlier_process_did_counts_for_no_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _lines(monkeypatch, (20, 60), done=40) == ["train 60%  1 tokens/s  loss 0.5  left 40 s"]


def test_no_time_is_left_behind_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _lines(monkeypatch, (10, 110)) == ["train 110%  11 tokens/s  loss 0.5  left 0 s"]
