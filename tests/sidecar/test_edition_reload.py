"""Policies reloaded while requests run: no position is lost, each request is judged as if its edition were alone."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
from hypothesis import given, settings
from hypothesis import strategies as st
from prefix_kit import HOOK, PREFIX, Piece, Request, frame, judge_of, plan_of
from prefix_scenarios import policy_texts

from monitor.policy import Mode
from monitor.rpc import floats_to_bytes, ints_to_bytes
from monitor.sidecar.judge import TapJudge
from monitor.sidecar.modes import Modes
from monitor.sidecar.plan import TapPlan
from monitor.sidecar.prefix.states import PrefixStates
from monitor.sidecar.request import LiveRequest
from monitor.sidecar.watch import Watch
from monitor.tap.encode import HostPayload
from monitor.tap.outbox import Outbox
from monitor.tap.record import Begin, End, HostRows, Segment, Step
from monitor.tap.wire import step_frame
from monitor.v1.tap_pb2 import HookActivations, StepFrame


def _acts(watch: Watch, parts: list[tuple[Request, int, int]]) -> npt.NDArray[np.float32]:
    """Positions [first, last) of requests in the columns that a tap encodes under `watch`."""
    columns: Any = SimpleNamespace(policies=SimpleNamespace(directions=[_Index(key.latent) for key in watch.keys]))
    return np.concatenate([request.acts(first, last, columns) for request, first, last in parts])


def whole_frame(watch: Watch, request: Request) -> StepFrame:
    """A request from its begin to its end in one frame."""
    count = len(request.tokens)
    values = floats_to_bytes(_acts(watch, [(request, 0, count)]))
    return StepFrame(
        seq=1,
        plan_version=watch.version,
        begins=[request.begin()],
        handles=[request.handle],
        first_positions=[0],
        row_counts=[count],
        token_ids=ints_to_bytes(np.array(request.tokens, np.int32)),
        activations=[HookActivations(hook_point=HOOK, values=values)] if watch.keys else [],
        ends=[request.end()],
    )


@dataclass(frozen=True)
class _Index:
    index: int


@dataclass
class FakeEngine:
    """A tap with a real outbox. It hears of a new plan, goes over to it at a later step, and its frames arrive later
    still, some of them again after a reconnect."""

    judge: TapJudge
    rng: Random
    outbox: Outbox = field(default_factory=lambda: Outbox(max_frames=1 << 14, max_bytes=1 << 30))
    running: dict[int, tuple[Request, int]] = field(default_factory=dict)
    ended: list[LiveRequest] = field(default_factory=list)
    handle: int = 0

    def __post_init__(self) -> None:
        self.outbox.connect("session", 0, 0)
        self.hear()
        self.adopt()

    def hear(self) -> None:
        """The latest plan that the sidecar sent arrives."""
        self.heard = self.judge.editions.watch
        self.outbox.plan(_digest(self.heard), self.heard.version)

    def adopt(self) -> None:
        self.adopted = self.heard

    def begin(self, *, odd: bool = False) -> Request:
        self.handle += 1
        prompt, response = (self.rng.choices(range(10), k=self.rng.randint(1, most)) for most in (6, 8))
        request = Request(self.handle, prompt, response, odd=odd)
        self.running[self.handle] = (request, 0)
        said = request.begin()
        begin = Begin(said.handle, said.request_id, "", said.prompt_token_ids, 0, "")
        # As a real tap's: what begins is told before the step's rows, and of no plan.
        self.outbox.offer(Step(1, begins=[begin]))
        return request

    def step(self) -> None:
        parts, ends = [], []
        for handle, (request, done) in [*self.running.items()]:
            if self.rng.random() < 0.7:
                until = min(done + self.rng.randint(1, 3), len(request.tokens))
                parts.append((request, done, until))
                self.running[handle] = (request, until)
                if until == len(request.tokens):
                    ends.append(End(handle, until, b"", 0))
                    del self.running[handle]
        if parts:
            watch = self.adopted
            segments = [Segment(request.handle, first, last - first) for request, first, last in parts]
            tokens = [token for request, first, last in parts for token in request.tokens[first:last]]
            activations = [(HOOK, _acts(watch, parts))] if watch.keys else []
            payload = HostPayload(HostRows(np.array(tokens, np.int32), activations))
            step = Step(1, segments=segments, payload=payload, plan_digest=_digest(watch), plan_version=watch.version)
            self.outbox.offer(step)
        if ends:
            self.outbox.offer(Step(1, ends=ends))

    def deliver(self, most: int = 1 << 14) -> None:
        for _ in range(most):
            frame = self.outbox.take()
            if frame is None:
                return
            rows = None if frame.payload is None else frame.payload.read()
            self.ended += self.judge.apply(step_frame(frame, rows).step).ended
            if self.rng.random() < 0.5:
                self.outbox.acknowledge(self.judge.last_seq)

    def reconnect(self) -> None:
        """Frames that were not acknowledged are sent again as far as the sidecar has not taken them."""
        self.outbox.connect("session", self.rng.randint(0, self.judge.last_seq), 0)
        self.hear()


def _digest(watch: Watch) -> str:
    return repr(watch.keys)


def alone(plan: TapPlan, request: Request) -> LiveRequest:
    """The same request where nothing but its edition ever was."""
    judge = judge_of(plan, PrefixStates(0), 0)
    (ended,) = judge.apply(whole_frame(judge.editions.watch, request)).ended
    return ended


def told(request: LiveRequest) -> list[tuple[str, str, int]]:
    return [(alert.policy, alert.rule, alert.position) for alert in request.alerts]


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=120, deadline=None)
def test_random_reloads_between_frames_leave_every_request_judged_as_by_its_edition_alone(seed: int) -> None:
    rng = Random(seed)
    plans = [plan_of(policy_texts(rng)) for _ in range(3)]
    judge = judge_of(plans[0], PrefixStates(0), 0)
    engine = FakeEngine(judge, rng)
    requests: dict[int, Request] = {}
    for _ in range(rng.randint(5, 40)):
        action = rng.choice(["begin", *["step"] * 3, *["deliver"] * 2, "hear", "adopt", "reload", "reconnect"])
        if action == "begin":
            request = engine.begin(odd=rng.random() < 0.2)
            requests[request.handle] = request
        elif action == "step":
            engine.step()
        elif action == "deliver":
            engine.deliver(rng.randint(1, 6))
        elif action != "reload":
            getattr(engine, action)()
        else:
            # One that was there before comes back, too; that is another edition.
            judge.adopt(judge.prepare(rng.choice(plans)))
    while engine.running:
        engine.step()
    engine.deliver()

    assert {ended.identity.handle for ended in engine.ended} == set(requests)
    assert judge.problems.by_kind.keys() <= {"activations not finite", "frame sent again"}
    for ended in engine.ended:
        request = requests[ended.identity.handle]
        expected = alone(ended.plan, request)
        assert ended.coverage == expected.coverage
        assert request.odd or ended.coverage.observed == len(request.tokens)
        assert ended.summary().peaks == expected.summary().peaks
        found, wanted = ended.transcript_arrays(), expected.transcript_arrays()
        np.testing.assert_array_equal(found.scores_pd, wanted.scores_pd)
        np.testing.assert_array_equal(found.token_scores_pd, wanted.token_scores_pd)
        assert told(ended) == told(expected)

    # In the end the tap watches for the newest edition alone, and what begins is judged by it.
    for _ in range(2):
        engine.hear()
        engine.adopt()
        last = engine.begin()
        while engine.running:
            engine.step()
        engine.deliver()
    assert judge.editions.watch.keys == judge.editions.newest.keys
    assert engine.ended[-1].identity.handle == last.handle
    assert engine.ended[-1].plan is judge.plan


POLICY = """\
apiVersion: monitor/v1
kind: Policy
metadata: {{name: {name}, revision: {revision}}}
spec:
  mode: {mode}
  detectors:
    - id: d
      source: {{saeLatents: {{sae: tiny, latents: [{{index: {index}}}]}}}}
      aggregate: {{kind: max, skip: []}}
      threshold: {{fire: {fire}}}
  rules:
    - {{id: R, when: d.fire, severity: low}}
"""


def policy_text(name: str = "p", revision: int = 1, mode: str = "alert", index: int = 0, fire: float = -100) -> str:
    return POLICY.format(name=name, revision=revision, mode=mode, index=index, fire=fire)


def test_a_request_finishes_on_the_edition_it_began_with_and_the_next_has_the_new_one() -> None:
    judge = judge_of(plan_of([policy_text(index=0)]), PrefixStates(0), 0)
    engine = FakeEngine(judge, Random(1))
    first, before = engine.begin(), judge.plan
    engine.step()
    engine.deliver()
    judge.adopt(judge.prepare(plan_of([policy_text(revision=2, index=1)])))
    assert [key.latent for key in judge.editions.watch.keys] == [0, 1], "the union, while the first request runs"
    # The tap has not gone over yet: it cannot show what the new edition needs.
    early = engine.begin()
    engine.step()
    engine.deliver()
    by_handle = {request.identity.handle: request for request in (*judge.live, *engine.ended)}
    assert by_handle[early.handle].plan is before
    engine.hear()
    engine.adopt()
    late = engine.begin()
    while engine.running:
        engine.step()
        engine.deliver()
    # What was announced before the first rows of the new plan came counts as begun before it.
    engine.begin()
    while engine.running:
        engine.step()
    engine.deliver()
    by_handle |= {request.identity.handle: request for request in engine.ended}
    assert by_handle[first.handle].plan is before
    assert by_handle[late.handle].coverage.observed == len(late.tokens)
    assert engine.ended[-1].plan is judge.plan
    assert [key.latent for key in judge.editions.watch.keys] == [1]


def test_other_thresholds_need_no_other_plan_and_hold_for_the_next_request_at_once() -> None:
    judge = judge_of(plan_of([policy_text(fire=-100)]), PrefixStates(0), 0)
    engine = FakeEngine(judge, Random(2))
    first = engine.begin()
    engine.step()
    engine.deliver()
    watch = judge.editions.watch
    judge.adopt(judge.prepare(plan_of([policy_text(revision=2, fire=1e9)])))
    assert judge.editions.watch is watch
    second = engine.begin()
    while engine.running:
        engine.step()
    engine.deliver()
    by_handle = {request.identity.handle: request for request in engine.ended}
    assert {alert.policy_revision for alert in by_handle[first.handle].alerts} == {1}
    assert by_handle[second.handle].alerts == []
    assert by_handle[second.handle].plan is judge.plan


def test_a_policy_that_is_gone_ends_with_its_last_request_and_its_tap_goes_on_without_directions() -> None:
    judge = judge_of(plan_of([policy_text()]), PrefixStates(0), 0)
    engine = FakeEngine(judge, Random(3))
    engine.begin()
    engine.step()
    engine.deliver()
    judge.adopt(judge.prepare(plan_of([policy_text("q", mode="off")])))
    while engine.running:
        engine.step()
    engine.deliver()
    assert {alert.policy for alert in engine.ended[0].alerts} == {"p"}
    for _ in range(2):
        engine.hear()
        engine.adopt()
        engine.begin()
        while engine.running:
            engine.step()
        engine.deliver()
    assert judge.editions.watch.keys == ()
    assert engine.ended[-1].alerts == []
    assert engine.ended[-1].coverage.dropped == 0


def test_an_idle_tap_keeps_no_edition_but_the_first_and_the_newest() -> None:
    judge = judge_of(plan_of([policy_text()]), PrefixStates(0), 0)
    for revision in range(2, 300):
        judge.adopt(judge.prepare(plan_of([policy_text(revision=revision, index=revision % 4)])))
    assert len(judge.editions.watch.keys) <= 2
    engine = FakeEngine(judge, Random(4))
    engine.begin()
    while engine.running:
        engine.step()
    engine.deliver()
    (ended,) = engine.ended
    assert ended.coverage.dropped == 0


def test_a_frame_of_a_plan_that_was_never_sent_is_refused_and_counted() -> None:
    judge = judge_of(plan_of([policy_text()]), PrefixStates(0), 0)
    request = Request(1, [1, 2], [3])
    watch = Watch(77, judge.editions.watch.keys)
    (ended,) = judge.apply(whole_frame(watch, request)).ended
    assert (ended.coverage.observed, ended.coverage.dropped) == (0, 3)
    assert judge.problems.by_kind == {"rows refused": 1}


def test_a_mode_holds_at_once_for_requests_that_run_and_off_makes_no_alert() -> None:
    judge = judge_of(plan_of([policy_text(), policy_text("q", index=1)]), PrefixStates(0), 0)
    request = Request(1, [1, 2], [3, 4])
    watch = judge.editions.watch
    judge.retune(Modes(runtime={"p": Mode.OFF, "q": Mode.SHADOW}), {"p", "q"})
    (live,) = judge.apply(whole_frame(watch, request)).ended
    assert [(alert.policy, int(alert.mode)) for alert in live.alerts] == [("q", int(Mode.SHADOW))]


def test_states_of_prefixes_are_of_the_edition_that_judged_them_and_serve_it_again_when_it_comes_back() -> None:
    plans = [plan_of([policy_text(revision=revision, fire=fire)]) for revision, fire in ((1, -100), (2, 1e9))]
    states = PrefixStates(1 << 20)
    judge = judge_of(plans[0], states, 2)
    judge.apply(frame(plans[0], 1, [Piece(Request(1, [1, 2, 3, 4], [5]), 0, 5)]))
    fates = []
    for number, plan in enumerate((plans[1], plans[0]), start=2):
        judge.adopt(judge.prepare(plan))
        request = Request(number, [1, 2, 3, 4], [5])
        pieces = [Piece(request, 0, 4, PREFIX), Piece(request, 4, 5)]
        (ended,) = judge.apply(frame(plans[0], number, pieces)).ended
        fates.append((ended.coverage.unseen, ended.coverage.restored, len(ended.alerts)))
    # Other thresholds would have judged the prefix otherwise; its alert is told again where it was told before.
    assert fates == [(4, 0, 0), (0, 4, 1)]
