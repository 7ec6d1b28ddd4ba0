"""The engine's side of the flight recorder: what a step does with it. An error costs rows their record, no more."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import numpy as np
import numpy.typing as npt

from monitor.tap.log import RateLimitedLog
from monitor.tap.record import Step
from monitor.tap.recorder.recorder import FlightRecorder
from monitor.tap.stats import TapStats

_P = ParamSpec("_P")
_T = TypeVar("_T")


class Recording:
    """Used by the engine's thread only. Without a recorder it does nothing."""

    def __init__(self, recorder: FlightRecorder | None, stats: TapStats) -> None:
        self._recorder, self._stats = recorder, stats
        self._log = RateLimitedLog()

    def place(self, rows: int) -> int | None:
        """Copies the rows of the pass that has just run; returns what `settle` wants, None when nothing was copied."""
        if self._recorder is None:
            return None
        return self._attempt(self._recorder.place, rows)

    def settle(self, placed: int | None, rows: int, step: Step, kept: npt.NDArray[np.int64] | None) -> None:
        """The rows that `place` copied are those of the step's segments; see `FlightRecorder.settle`."""
        if self._recorder is not None and placed is not None:
            self._attempt(self._recorder.settle, placed, rows, step.segments, kept)

    def note(self, step: Step) -> None:
        """Requests begin and end with this step."""
        if self._recorder is not None:
            for begin in step.begins:
                self._recorder.begin(begin.handle)
            for end in step.ends:
                self._recorder.end(end.handle)

    def _attempt(self, work: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T | None:
        start = time.perf_counter_ns()
        try:
            return work(*args, **kwargs)
        except Exception as error:  # noqa: BLE001 -- recording must cost no row its activations
            self._stats.recorder_errors += 1
            self._log.warn_about("recorder", "rows of a step were not recorded", exception=error)
            return None
        finally:
            self._stats.record.add(time.perf_counter_ns() - start)
