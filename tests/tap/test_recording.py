"""What the tap records: the rows that the book keeps, no others, whatever else goes wrong."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from monitor.sae import HookPoint
from monitor.tap.book import RequestBook
from monitor.tap.drafts import SampledDrafts
from monitor.tap.record import HostRows, NewRequest, RowTable, Step
from monitor.tap.recorder.recorder import FlightRecorder, make_recorder
from monitor.tap.sites import Site
from monitor.tap.stats import TapStats
from monitor.tap.tap import Tap

WIDTH, MAX_ROWS = 3, 16


class Encoder:
    def __init__(self) -> None:
        self.fires, self.error = True, False

    def adopt(self, plan: Any) -> Any:
        return plan

    def mark(self) -> None:
        """Nothing to compare with."""

    def fired(self) -> bool:
        return self.fires

    def encode(self, plan: Any, token_ids: Any, rows: int) -> Any:
        if self.error:
            raise RuntimeError("broken")
        return SimpleNamespace(nbytes=4, read=lambda: HostRows(np.zeros(rows, np.int32), []))


class Sink:
    full = False

    def __init__(self) -> None:
        self.steps: list[Step] = []

    def offer(self, step: Step) -> None:
        self.steps.append(step)


class Engine:
    """A tap with a recorder. Each row of a pass holds the number of the pass and of the row."""

    def __init__(self) -> None:
        self.site = Site(HookPoint(0), torch.zeros(MAX_ROWS, WIDTH), torch.zeros(1, dtype=torch.int64), "", None)
        recorder = make_recorder([self.site], 1)
        assert recorder is not None
        self.recorder: FlightRecorder = recorder
        self.encoder, self.sink, self.stats = Encoder(), Sink(), TapStats()
        book = RequestBook(lambda request_id: request_id)
        self.tap = Tap(self.encoder, book, self.sink, self.stats, lambda: None, recorder=recorder)
        self.passes = 0

    def forward(
        self, table: dict[str, tuple[int, int]], *, drafts: dict[str, int] | None = None, begun: tuple[str, ...] = ()
    ) -> SampledDrafts | None:
        """One step; `table`: first position and rows of each request."""
        self.tap.guard(self.tap.between_steps, [], [NewRequest(name, [5]) for name in begun])
        self.passes += 1
        for row in range(MAX_ROWS):
            self.site.buffer_nd[row] = torch.tensor([self.passes, row, 0])
        firsts = np.array([first for first, _ in table.values()], np.int32)
        bounds = np.cumsum([0, *(rows for _, rows in table.values())]).astype(np.int32)
        judged = SampledDrafts(list(table), firsts, drafts) if drafts else None
        self.tap.guard(self.tap.after_forward, RowTable(list(table), bounds, firsts, None, judged))
        return judged

    def held(self, handle: int) -> dict[int, tuple[int, int]]:
        """Pass and row of each position."""
        found: dict[int, tuple[int, int]] = {}
        start = 0
        while (run := self.recorder.find(handle, start, self.recorder.settled)) is not None:
            start = int(run.numbers_n[-1]) + 1
            part, rows_nb = self.recorder.read(0, run)
            for offset, row_d in enumerate(rows_nb.copy().view(np.float32).astype(int).tolist()):
                assert part.first_position + offset not in found
                found[part.first_position + offset] = (row_d[0], row_d[1])
        return found


def test_rows_are_found_by_request_and_position_without_any_plan() -> None:
    engine = Engine()
    engine.forward({"a": (0, 3), "b": (4, 2)}, begun=("a", "b"))
    engine.forward({"b": (6, 1), "a": (3, 1)})
    assert engine.held(1) == {0: (1, 0), 1: (1, 1), 2: (1, 2), 3: (2, 1)}
    assert engine.held(2) == {4: (1, 3), 5: (1, 4), 6: (2, 0)}


def test_recomputed_rows_and_rows_of_nobody_are_not_recorded() -> None:
    engine = Engine()
    engine.forward({"a": (0, 3), "stranger": (0, 2)}, begun=("a",))
    engine.forward({"stranger": (2, 1), "a": (1, 4)})
    assert engine.held(1) == {0: (1, 0), 1: (1, 1), 2: (1, 2), 3: (2, 3), 4: (2, 4)}
    assert [len(engine.held(handle)) for handle in (0, 2, 3)] == [0, 0, 0]


@pytest.mark.parametrize("accepted", [0, 1, 2])
def test_rejected_drafts_are_not_recorded_and_later_rows_wait_for_the_verdict(accepted: int) -> None:
    engine = Engine()
    engine.forward({"a": (0, 2)}, begun=("a",))
    drafts = engine.forward({"a": (2, 3)}, drafts={"a": 2})
    engine.forward({"a": (3 + accepted, 1)})
    assert list(engine.held(1)) == [0, 1]
    assert drafts is not None
    drafts.judge({"a": 1 + accepted})
    engine.tap.guard(engine.tap.settle)
    assert list(engine.held(1)) == list(range(4 + accepted))
    assert engine.held(1)[3 + accepted] == (3, 0)


def test_a_pass_in_which_a_hook_was_silent_is_not_recorded() -> None:
    engine = Engine()
    engine.encoder.fires = False
    engine.forward({"a": (0, 3)}, begun=("a",))
    engine.encoder.fires = True
    engine.forward({"a": (3, 1)})
    assert engine.held(1) == {3: (2, 0)}


def test_an_error_of_the_encoder_costs_no_record() -> None:
    engine = Engine()
    engine.encoder.error = True
    engine.forward({"a": (0, 3)}, begun=("a",))
    assert list(engine.held(1)) == [0, 1, 2]


@pytest.mark.parametrize("broken", ["place", "settle"])
def test_an_error_of_the_recorder_costs_no_row_its_activations(broken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine()
    with monkeypatch.context() as patch:
        patch.setattr(engine.recorder, broken, lambda *args: 1 / 0)
        engine.forward({"a": (0, 3)}, begun=("a",))
    engine.forward({"a": (3, 1)})
    reported = [step for step in engine.sink.steps if step.segments]
    assert [len(step.segments) for step in reported] == [1, 1]
    assert (engine.stats.recorder_errors, engine.stats.errors, engine.stats.engine_errors) == (1, 1, 0)
    assert engine.held(1) == {3: (2, 0)}


def test_a_request_is_live_from_its_begin_to_its_end() -> None:
    engine = Engine()
    assert not engine.recorder.live(1)
    engine.forward({"a": (0, 3)}, begun=("a",))
    assert engine.recorder.live(1)
    engine.tap.guard(engine.tap.between_steps, [("a", [7])], [])
    assert not engine.recorder.live(1)
    assert len(engine.held(1)) == 3
