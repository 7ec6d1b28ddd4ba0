"""The V2 runner's adapter where vLLM's scheduler alone does not lead: more input for a live request, other runners,
passes without requests. What schedules do to it is in `test_real_scheduler.py`."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from support.fake_batches import World
from support.fake_runner_v2 import FakeRunnerV2

from monitor.errors import FeaturewatchError
from monitor.tap.book import RequestBook
from monitor.tap.encode import CpuEncoder
from monitor.tap.record import Segment, Step
from monitor.tap.runner.v2 import RunnerV2
from monitor.tap.stats import TapStats
from monitor.tap.tap import Tap


class Sink:
    full = False

    def __init__(self) -> None:
        self.steps: list[Step] = []

    def offer(self, step: Step) -> None:
        self.steps.append(step)


class Engine:
    def __init__(self) -> None:
        self.runner = FakeRunnerV2(World(np.random.default_rng(0)), drafts=0, max_rows=16, max_requests=4)
        self.adapter, self.sink, self.stats = RunnerV2(self.runner), Sink(), TapStats()
        encoder = CpuEncoder([self.runner.fake_model.site])
        self.tap = Tap(encoder, RequestBook(lambda name: name), self.sink, self.stats, self.adapter.detach)
        self.adapter.attach(self.tap, lambda: self.tap.end_all(self.adapter.outputs))

    def step(self, scheduled: dict[str, int], new: list[Any], preempted: tuple[str, ...] = ()) -> list[Step]:
        """Runs one engine step; returns what the tap offered in it."""
        before = len(self.sink.steps)
        cached = [name for name in scheduled if name not in {one.req_id for one in new}]
        computed = [self.runner.req_states[name].computed for name in cached]
        output = SimpleNamespace(
            finished_req_ids=set(),
            preempted_req_ids=set(preempted),
            scheduled_new_reqs=new,
            scheduled_cached_reqs=SimpleNamespace(req_ids=cached, num_computed_tokens=computed),
            num_scheduled_tokens=scheduled,
            total_num_scheduled_tokens=sum(scheduled.values()),
            scheduled_spec_decode_tokens={},
        )
        assert self.runner.execute_model(output) is None
        self.runner.sample_tokens(None)
        assert self.stats.engine_errors == 0
        return self.sink.steps[before:]


def _new(name: str, prompt: list[int], known: list[int], computed: int = 0) -> Any:
    return SimpleNamespace(
        req_id=name,
        prompt_token_ids=prompt,
        prompt_len=len(prompt),
        prefill_token_ids=known,
        num_computed_tokens=computed,
        lora_request=None,
        mm_features=[],
        sampling_params=None,
    )


def test_a_preempted_request_goes_on_and_one_with_more_input_is_another() -> None:
    engine = Engine()
    begin, rows = engine.step({"a": 3}, [_new("a", [5, 6, 7], [5, 6, 7])])
    assert (begin.begins[0].handle, rows.segments) == (1, [Segment(1, 0, 3)])
    (rows,) = engine.step({"a": 1}, [])
    assert rows.segments == [Segment(1, 3, 1)]
    tokens = engine.runner.req_states["a"].tokens
    (rows,) = engine.step({"a": 5}, [_new("a", [5, 6, 7], tokens)], preempted=("a",))
    assert rows.segments == [Segment(1, 4, 1)]
    longer = [*engine.runner.req_states["a"].tokens, 9, 9]
    end, begin, rows = engine.step({"a": 4}, [_new("a", longer, longer, computed=4)])
    assert (end.ends[0].handle, end.ends[0].positions) == (1, 5)
    assert begin.begins[0].handle == 2
    assert (rows.gaps[0].length, rows.segments) == (4, [Segment(2, 4, 4)])


def test_passes_without_requests_are_no_steps() -> None:
    engine = Engine()
    engine.runner.execute_model(None, dummy_run=True)
    engine.runner.execute_model(None, None, True)
    assert (engine.sink.steps, engine.stats.steps, engine.stats.engine_errors) == ([], 0, 0)


def test_a_tap_that_leaves_puts_the_runners_methods_back() -> None:
    engine = Engine()
    wrapped = {"execute_model", "prepare_inputs", "postprocess_sampled", "shutdown"}
    assert wrapped <= set(vars(engine.runner))
    engine.adapter.detach()
    assert wrapped & set(vars(engine.runner)) == {"shutdown"}


def test_another_runner_is_refused() -> None:
    with pytest.raises(FeaturewatchError, match="without load_model, execute_model"):
        RunnerV2(object())
