"""What happens in the engine's thread, on a fake of vLLM's V1 runner: nothing the tap does may reach the engine."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from monitor.errors import FeaturewatchError
from monitor.tap.book import RequestBook
from monitor.tap.external_id import external_id
from monitor.tap.record import NO_PLAN, QUEUE_FULL, TAP_ERROR, HostRows, NewRequest, Segment, Step
from monitor.tap.runner.v1 import RunnerV1
from monitor.tap.stats import TapStats
from monitor.tap.tap import DETACH_AFTER_ERRORS, Tap


class FakeRunner:
    """The batch objects of vLLM's V1 runner: the batch is only true inside `execute_model`, after `_update_states`."""

    def __init__(self) -> None:
        self.input_batch = SimpleNamespace(req_ids=[], num_reqs=0, num_computed_tokens_cpu=np.zeros(8, np.int32))
        self.requests: dict[str, Any] = {}
        self.query_start_loc = SimpleNamespace(np=np.zeros(9, np.int32))
        self.positions = torch.zeros(64, dtype=torch.int64)
        self.input_ids = SimpleNamespace(gpu=torch.zeros(64, dtype=torch.int32))
        self.forwards = 0
        self.was_shut_down = False

    def load_model(self) -> None:
        """Nothing to load."""

    def execute_model(self, scheduler_output: Any) -> str:
        for request_id in scheduler_output.finished_req_ids:
            self.requests.pop(request_id, None)
        for new in scheduler_output.scheduled_new_reqs:
            self.requests[new.req_id] = SimpleNamespace(num_computed_tokens=0, output_token_ids=[])
        scheduled = scheduler_output.num_scheduled_tokens
        if not scheduled:
            return "idle"
        batch = self.input_batch
        batch.req_ids, batch.num_reqs = list(scheduled), len(scheduled)
        bounds = np.cumsum([0, *scheduled.values()])
        self.query_start_loc.np[: len(bounds)] = bounds
        for index, request_id in enumerate(scheduled):
            first = self.requests[request_id].num_computed_tokens
            batch.num_computed_tokens_cpu[index] = first
            rows = slice(bounds[index], bounds[index + 1])
            self.positions[rows] = torch.arange(first, first + scheduled[request_id])
        self._model_forward()
        self.batch_output = SimpleNamespace(
            req_id_to_index={request_id: index for index, request_id in enumerate(scheduled)}, sampled_token_ids=None
        )
        for request_id, count in scheduled.items():
            self.requests[request_id].num_computed_tokens += count
        return "ran"

    def _model_forward(self) -> str:
        self.forwards += 1
        return "hidden states"

    def sample_tokens(self, sampled: Any) -> Any:
        self.batch_output.sampled_token_ids = sampled
        return self.batch_output

    def shutdown(self) -> None:
        self.was_shut_down = True


class FakeEncoder:
    def __init__(self) -> None:
        self.error: Exception | None = None
        self.fires = True
        self.numbered = False
        self.adoption: Exception | None = None

    def adopt(self, plan: Any) -> Any:
        if self.adoption is not None:
            raise self.adoption
        return plan

    def mark(self) -> None:
        """Nothing to compare with."""

    def fired(self) -> bool:
        return self.fires

    def encode(self, plan: Any, token_ids: Any, rows: int) -> Any:
        if self.error is not None:
            raise self.error
        ids_n = np.arange(rows, dtype=np.int32) if self.numbered else np.zeros(rows, np.int32)
        return SimpleNamespace(nbytes=4, read=lambda: HostRows(ids_n, [])) if plan else None


class Sink:
    def __init__(self) -> None:
        self.steps: list[Step] = []
        self.full = False

    def offer(self, step: Step) -> None:
        self.steps.append(step)


class Engine:
    """A fake runner with a tap, and a scheduler to drive it."""

    def __init__(self) -> None:
        self.runner, self.encoder, self.sink, self.stats = FakeRunner(), FakeEncoder(), Sink(), TapStats()
        self.adapter = RunnerV1(self.runner)
        self.tap = Tap(self.encoder, RequestBook(external_id), self.sink, self.stats, self.adapter.detach)
        self.tap.propose(SimpleNamespace(digest="A", version=1))  # type: ignore[arg-type]
        self.adapter.attach(self.tap, lambda: self.tap.end_all(self.adapter.outputs))

    def step(
        self,
        scheduled: dict[str, int],
        *,
        new: dict[str, list[int]] | None = None,
        finished: tuple[str, ...] = (),
        drafts: dict[str, list[int]] | None = None,
    ) -> list[Step]:
        """Runs one engine step; returns what the tap offered in it."""
        before = len(self.sink.steps)
        output = SimpleNamespace(
            finished_req_ids=set(finished),
            scheduled_new_reqs=[
                SimpleNamespace(
                    req_id=name, prompt_token_ids=prompt, lora_request=None, mm_features=[], sampling_params=None
                )
                for name, prompt in (new or {}).items()
            ],
            num_scheduled_tokens=scheduled,
            scheduled_spec_decode_tokens=drafts or {},
            total_num_scheduled_tokens=sum(scheduled.values()),
        )
        assert self.runner.execute_model(output) == ("ran" if scheduled else "idle")
        return self.sink.steps[before:]


def test_a_request_from_its_begin_to_its_end_on_the_idle_step() -> None:
    engine = Engine()
    begin, rows = engine.step({"a": 3}, new={"a": [5, 6, 7]})
    assert begin.begins[0].request_id == "a"
    assert rows.segments == [Segment(1, 0, 3)]
    assert (rows.plan_digest, rows.payload is not None) == ("A", True)
    engine.runner.requests["a"].output_token_ids.extend([8, 9])
    engine.step({"a": 1})
    (end,) = engine.step({}, finished=("a",))
    assert (end.ends[0].positions, np.frombuffer(end.ends[0].tail_token_ids, "<i4").tolist()) == (4, [9])
    assert (engine.stats.steps, engine.stats.steps_fired, engine.stats.rows) == (2, 2, 4)


def test_dummy_runs_are_no_steps() -> None:
    engine = Engine()
    engine.runner._model_forward()
    assert engine.sink.steps == []


def test_an_error_in_the_tap_is_a_gap_and_the_engine_does_not_notice() -> None:
    engine = Engine()
    engine.encoder.error = RuntimeError("broken")
    _, rows = engine.step({"a": 3}, new={"a": [5, 6, 7]})
    assert (rows.payload, rows.missing_because) == (None, TAP_ERROR)
    engine.encoder.error = None
    (rows,) = engine.step({"a": 1})
    assert rows.segments == [Segment(1, 3, 1)]
    assert rows.gaps == []
    assert engine.stats.engine_errors == 1


def test_an_unreadable_batch_is_made_up_for_at_the_next_sight(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine()
    engine.step({"a": 3}, new={"a": [5, 6, 7]})
    with monkeypatch.context() as patch:
        patch.setattr(engine.runner, "input_ids", None)
        assert engine.step({"a": 2}) == []
    (rows,) = engine.step({"a": 1})
    assert [(gap.first, gap.length, gap.reason) for gap in rows.gaps] == [(3, 2, TAP_ERROR)]
    assert rows.segments == [Segment(1, 5, 1)]


@pytest.mark.parametrize(("change", "reason"), [("silent", TAP_ERROR), ("full", QUEUE_FULL), ("no plan", NO_PLAN)])
def test_why_rows_have_no_activations_is_said(change: str, reason: int) -> None:
    engine = Engine()
    engine.encoder.fires = change != "silent"
    engine.sink.full = change == "full"
    if change == "no plan":
        engine.tap.propose(None)
    _, rows = engine.step({"a": 2}, new={"a": [5, 6]})
    assert rows.segments == [Segment(1, 0, 2)]
    assert (rows.payload, rows.missing_because) == (None, reason)
    assert engine.stats.steps_fired == (0 if change == "silent" else 1)


def test_after_repeated_failure_the_tap_is_gone_and_the_engine_runs_on() -> None:
    engine = Engine()
    engine.encoder.error = RuntimeError("broken")
    engine.step({"a": 1}, new={"a": [5]})
    for _ in range(DETACH_AFTER_ERRORS + 5):
        engine.step({"a": 1})
    assert engine.stats.engine_errors == DETACH_AFTER_ERRORS
    assert engine.runner.forwards == DETACH_AFTER_ERRORS + 6
    assert "execute_model" not in vars(engine.runner)
    assert "_model_forward" not in vars(engine.runner)


def test_errors_between_the_steps_are_not_forgiven_by_the_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine()
    engine.step({"a": 1}, new={"a": [5]})
    monkeypatch.setattr(engine.tap, "_open", lambda begun, step: 1 / 0)
    for _ in range(DETACH_AFTER_ERRORS):
        engine.step({"a": 1})
    assert "execute_model" not in vars(engine.runner)


def test_a_tap_that_cannot_detach_itself_fails_no_step(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine()
    engine.encoder.error = RuntimeError("broken")
    monkeypatch.setattr(engine.tap, "_detach", lambda: 1 / 0)
    engine.step({"a": 1}, new={"a": [5]})
    for _ in range(DETACH_AFTER_ERRORS + 2):
        engine.step({"a": 1})
    assert engine.runner.forwards == DETACH_AFTER_ERRORS + 3


def test_a_plan_comes_into_force_between_two_steps_and_one_that_the_device_refuses_leaves_none() -> None:
    engine = Engine()
    engine.step({"a": 1}, new={"a": [5]})
    engine.tap.propose(SimpleNamespace(digest="B", version=2))  # type: ignore[arg-type]
    assert engine.tap.plan is not None
    assert engine.tap.plan.digest == "A"
    (rows,) = engine.step({"a": 1})
    assert (rows.plan_digest, rows.plan_version) == ("B", 2)
    engine.encoder.adoption = MemoryError("device is full")
    engine.tap.propose(SimpleNamespace(digest="C", version=3))  # type: ignore[arg-type]
    for _ in range(2):
        (rows,) = engine.step({"a": 1})
        assert (rows.payload, rows.missing_because) == (None, NO_PLAN)
    assert engine.stats.engine_errors == 1


def test_what_the_book_has_told_is_offered_although_the_next_request_fails() -> None:
    engine = Engine()
    broken = NewRequest("b", ["no number"])  # type: ignore[list-item]
    good = NewRequest("a", [5])
    assert not engine.tap.guard(engine.tap.between_steps, [], [good, broken])
    assert [step.begins[0].request_id for step in engine.sink.steps] == ["a"]


def test_more_input_for_a_live_request_makes_it_another_one() -> None:
    """vLLM schedules a streaming request anew with a prompt that holds what was sampled before."""
    engine = Engine()
    engine.step({"a": 2}, new={"a": [5, 6]})
    engine.runner.requests["a"].output_token_ids.append(7)
    end, begin, rows = engine.step({"a": 3}, new={"a": [5, 6, 7, 8, 9]})
    assert (end.ends[0].handle, end.ends[0].positions) == (1, 2)
    assert np.frombuffer(end.ends[0].tail_token_ids, "<i4").tolist() == [7]
    assert (begin.begins[0].handle, len(begin.begins[0].prompt_token_ids)) == (2, 5 * 4)
    assert rows.segments == [Segment(2, 0, 3)]


def _sample(engine: Engine, tokens: list[list[int]] | None) -> list[Step]:
    """The runner samples for the step before; returns what the tap offered."""
    before = len(engine.sink.steps)
    assert engine.runner.sample_tokens(tokens) is engine.runner.batch_output
    return engine.sink.steps[before:]


def _with_drafts(engine: Engine) -> None:
    """A step in which "a" has two drafts behind token 3 and "b" decodes plainly."""
    engine.step({"a": 3, "b": 2}, new={"a": [5, 6, 7], "b": [5, 6]})
    _sample(engine, [[8], [9]])
    for name in "ab":
        engine.runner.requests[name].output_token_ids.append(8)
    assert engine.step({"a": 3, "b": 1}, drafts={"a": [70, 71]}) == []


@pytest.mark.parametrize("accepted", [0, 1, 2])
def test_rejected_drafts_are_no_positions(accepted: int) -> None:
    engine = Engine()
    _with_drafts(engine)
    (rows,) = _sample(engine, [[70, 71, 72][: accepted + 1], [9]])
    assert rows.segments == [Segment(1, 3, 1 + accepted), Segment(2, 2, 1)]
    assert rows.gaps == []
    assert engine.stats.rejected_draft_rows == 2 - accepted
    assert engine.stats.rows == 5 + 2 + accepted
    engine.runner.requests["a"].num_computed_tokens -= 2 - accepted
    (rows,) = engine.step({"a": 1, "b": 1})
    assert rows.segments == [Segment(1, 4 + accepted, 1), Segment(2, 3, 1)]


def test_the_payload_of_a_step_with_drafts_holds_the_accepted_rows() -> None:
    engine = Engine()
    engine.encoder.numbered = True
    _with_drafts(engine)
    (rows,) = _sample(engine, [[70, 71], [9]])
    assert rows.payload is not None
    assert rows.payload.read().token_ids_n.tolist() == [0, 1, 3]


@pytest.mark.parametrize("output", [None, [[], [9]]], ids=["unreadable", "nothing sampled"])
@pytest.mark.parametrize("accepted", [0, 2])
def test_drafts_whose_fate_is_unknown_are_a_tap_error_and_nothing_else_is(output: Any, accepted: int) -> None:
    engine = Engine()
    _with_drafts(engine)
    (rows,) = _sample(engine, output)
    assert rows.segments == [Segment(1, 3, 1), Segment(2, 2, 1)]
    assert engine.stats.engine_errors >= 1
    engine.runner.requests["a"].num_computed_tokens -= 2 - accepted
    (rows,) = engine.step({"a": 1, "b": 1})
    assert rows.segments == [Segment(1, 4 + accepted, 1), Segment(2, 3, 1)]
    assert [(gap.first, gap.length, gap.reason) for gap in rows.gaps] == ([(4, 2, TAP_ERROR)] if accepted else [])


def test_drafts_that_nothing_was_sampled_for_do_not_hold_up_what_is_behind_them() -> None:
    engine = Engine()
    _with_drafts(engine)
    engine.runner.requests["a"].output_token_ids.append(70)
    rows, end = engine.step({}, finished=("a",))
    assert rows.segments == [Segment(1, 3, 1), Segment(2, 2, 1)]
    # Two tokens were sampled behind the prompt of three: the second draft cannot have been accepted.
    assert (end.gaps, end.ends[0].positions) == ([], 4)


def test_a_tap_that_leaves_with_drafts_unjudged_closes_every_request() -> None:
    engine = Engine()
    _with_drafts(engine)
    engine.tap.end_all(engine.adapter.outputs)
    rows, ends = engine.sink.steps[-2:]
    assert rows.segments == [Segment(1, 3, 1), Segment(2, 2, 1)]
    assert [end.positions for end in ends.ends] == [4, 3]


def test_shutdown_closes_live_requests_before_the_runner_lets_go() -> None:
    engine = Engine()
    engine.step({"a": 3}, new={"a": [5, 6, 7]})
    engine.runner.requests["a"].output_token_ids.append(8)
    engine.runner.shutdown()
    assert engine.sink.steps[-1].ends[0].positions == 3
    assert engine.runner.was_shut_down


def test_another_runner_is_refused() -> None:
    with pytest.raises(FeaturewatchError, match="without load_model, execute_model"):
        RunnerV1(object())


def test_the_model_is_tapped_once_it_is_loaded() -> None:
    runner = FakeRunner()
    adapter, loaded = RunnerV1(runner), []
    adapter.on_model_loaded(lambda: loaded.append(True))
    assert loaded == []
    runner.load_model()
    runner.load_model()
    assert loaded == [True]
