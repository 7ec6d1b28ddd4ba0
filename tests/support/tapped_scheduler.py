"""vLLM's scheduler, a fake runner and the real adapter, tap, book and encoder, driven as vLLM's engine core does it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import numpy as np
import torch

from monitor.tap.book import RequestBook
from monitor.tap.encode import CpuEncoder
from monitor.tap.host_copy import CpuCopier, HostCopy
from monitor.tap.plan import prepare_plan
from monitor.tap.record import Step
from monitor.tap.runner.v1 import RunnerV1
from monitor.tap.runner.v2 import RunnerV2
from monitor.tap.stats import TapStats
from monitor.tap.tap import Tap
from monitor.v1 import tap_pb2
from support.fake_batches import WIDTH, World
from support.fake_runner_v1 import FakeRunnerV1
from support.fake_runner_v2 import FakeRunnerV2
from support.real_scheduler import BUDGET, MAX_REQUESTS, Mode, make_request, make_scheduler

FAULTS = ("encode", "silent", "table", "verdict", "book before", "book behind", "full", "no plan")
"""What may go wrong in a step. Each costs the step's rows, but for a verdict: it costs the accepted drafts."""


@dataclass(frozen=True)
class Arrival:
    """One request; `aborted_after` steps it is aborted, None: never. `extra_args` are those of its sampling params."""

    after: int
    prompt: tuple[int, ...]
    max_tokens: int
    aborted_after: int | None
    extra_args: dict[str, Any] | None = None


@dataclass
class RecordingSink:
    """The publisher's place."""

    steps: list[Step] = field(default_factory=list)
    full: bool = False

    def offer(self, step: Step) -> None:
        self.steps.append(step)


class LateCopier:
    """As on a GPU: what is copied arrives some steps later, unless somebody waits for it."""

    def __init__(self, lag: int) -> None:
        self.lag, self.now, self.waits = lag, 0, 0

    def copy(self, tensors: Sequence[torch.Tensor]) -> HostCopy:
        return _Late(self, CpuCopier().copy(tensors), self.now + self.lag)


class _Late:
    def __init__(self, copier: LateCopier, copy: HostCopy, due: int) -> None:
        self._copier, self._copy, self._due = copier, copy, due

    def done(self) -> bool:
        return self._copier.now >= self._due

    def read(self) -> list[torch.Tensor]:
        self._copier.waits += not self.done()
        return self._copy.read()


class TappedScheduler:
    """One engine's life.

    Args:
        lag: steps until something arrives from the "device" of the V2 runner.
        faults: share of the steps in which something goes wrong.

    Attributes:
        world: the truth.
        sink: what the tap offered.
        faults: by number of the forward pass, what went wrong with it.
    """

    def __init__(self, mode: Mode, *, seed: int, blocks: int, prefix_caching: bool, lag: int, faults: float) -> None:
        # Steps without rows, after which the engine may be idle.
        self.idle_steps = 0
        self.mode, self._fault_rate = mode, faults
        self.random = np.random.default_rng(seed)
        self.world, self.sink, self.stats = World(self.random), RecordingSink(), TapStats()
        self.scheduler = make_scheduler(mode, blocks=blocks, prefix_caching=prefix_caching)
        self.copier = LateCopier(lag)
        self.runner: Any
        self.adapter: Any
        if mode.runner == "v1":
            self.runner = FakeRunnerV1(
                self.world, asynchronous=mode.asynchronous, max_rows=BUDGET, max_requests=MAX_REQUESTS
            )
            self.adapter = RunnerV1(self.runner)
        else:
            self.runner = FakeRunnerV2(self.world, drafts=mode.drafts, max_rows=BUDGET, max_requests=MAX_REQUESTS)
            self.adapter = RunnerV2(self.runner, self.copier)
        self.encoder = CpuEncoder([self.runner.fake_model.site])
        self.book = RequestBook(lambda name: name)
        self.tap = Tap(self.encoder, self.book, self.sink, self.stats, self.adapter.detach)
        self.plan = _identity_plan(self.runner.fake_model.site)
        self.tap.propose(self.plan)
        self.adapter.attach(self.tap, lambda: self.tap.end_all(self.adapter.outputs))
        self.faults: dict[int, set[str]] = defaultdict(set)
        self._step_of: dict[int, tuple[Any, int]] = {}
        self._pending: tuple[Any, Any] | None = None

    def run(self, arrivals: Sequence[Arrival]) -> None:
        """Serves all of them and shuts the engine down."""
        from vllm.v1.request import RequestStatus

        due: list[tuple[int, int, Callable[[], None]]] = []
        now = 0
        for index, arrival in enumerate(arrivals):
            now += arrival.after
            request = make_request(f"r{index}", list(arrival.prompt), arrival.max_tokens, arrival.extra_args)
            due.append((now, index, lambda request=request: self.scheduler.add_request(request)))
            if arrival.aborted_after is not None:
                due.append(
                    (
                        now + arrival.aborted_after,
                        index,
                        lambda name=f"r{index}": self.scheduler.finish_requests([name], RequestStatus.FINISHED_ABORTED),
                    )
                )
        due.sort(key=lambda entry: entry[:2])
        for clock in range(600):
            while due and due[0][0] <= clock:
                due.pop(0)[2]()
            if not due and self._pending is None and not self.scheduler.has_requests():
                self.runner.shutdown()
                return
            self._step()
        raise AssertionError("the schedule does not end")

    def _step(self) -> None:
        decided = self.scheduler.schedule()
        rows = decided.total_num_scheduled_tokens
        self.idle_steps += not rows
        fault = ""
        if rows and self.random.random() < self._fault_rate:
            fault = str(self.random.choice(FAULTS))
            self.faults[self.world.step + 1].add(fault)
        with self._broken(fault):
            output = self.runner.execute_model(decided)
            assert (output is None) == bool(rows), "a tap that fails must not fail the engine"
            if rows:
                output = self.runner.sample_tokens(None)
        self.copier.now += 1
        if self.mode.runner == "v2" and self.random.random() < 0.1:
            self.runner.execute_model(None, dummy_run=True)
        if not self.mode.asynchronous:
            self._update(decided, output)
            return
        # The next step is decided on before the scheduler hears of this one.
        before, self._pending = self._pending, (decided, output) if rows else None
        if before is not None:
            self._update(*before)

    def _update(self, decided: Any, output: Any) -> None:
        from vllm.v1.outputs import DraftTokenIds

        self.scheduler.update_from_output(decided, output)
        if self.mode.drafts and not self.mode.asynchronous:
            # A request may have fewer drafts than it could.
            drafts = {
                name: tokens[: int(self.random.integers(0, self.mode.drafts + 1))]
                for name, tokens in self.runner.drafts.items()
            }
            self.scheduler.update_draft_token_ids(DraftTokenIds(list(drafts), list(drafts.values())))

    @contextmanager
    def _broken(self, fault: str) -> Iterator[None]:
        """The tap with a fault, for one step."""
        self.sink.full = fault == "full"
        self.runner.fake_model.fires = fault != "silent"
        self.tap.propose(None if fault == "no plan" else self.plan)
        rows, judge, table_of = self.book.rows, self.adapter._judge_drafts, self.adapter._table

        def noted_table(*args: Any) -> Any:
            table = table_of(*args)
            self._step_of[id(table.bounds)] = (table.bounds, self.world.step)
            return table

        def broken_rows(table: Any, report: Step) -> Any:
            # With drafts, it may be an earlier step that is reported now.
            self.faults[self._step_of[id(table.bounds)][1]].add(fault)
            if fault == "book behind":
                rows(table, report)
            raise RuntimeError(fault)

        with ExitStack() as stack:
            change = lambda owner, name, value: stack.enter_context(mock.patch.object(owner, name, value))  # noqa: E731
            change(self.adapter, "_table", _fail if fault == "table" else noted_table)
            if fault == "encode":
                change(self.encoder, "encode", _fail)
            elif fault == "verdict":
                change(self.adapter, "_judge_drafts", lambda *args: judge(*([None] * len(args))))
            elif fault.startswith("book"):
                change(self.book, "rows", broken_rows)
            yield


def _fail(*args: Any) -> Any:
    raise RuntimeError("as the test wanted it")


def _identity_plan(site: Any) -> Any:
    """Activations are the residual rows themselves."""
    hook = tap_pb2.HookPlan(
        hook_point=str(site.hook_point),
        width=WIDTH,
        count=WIDTH,
        weights=np.eye(WIDTH, dtype="<f4").tobytes(),
        biases=np.zeros(WIDTH, "<f4").tobytes(),
        rules=[tap_pb2.DIRECTION_RULE_IDENTITY] * WIDTH,
    )
    return prepare_plan(tap_pb2.WatchPlan(version=1, hooks=[hook]), {str(site.hook_point): site})
