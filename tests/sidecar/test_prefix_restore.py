"""A request whose prefix comes out of the engine's cache is judged as a cold run would have judged it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from random import Random

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from prefix_kit import Expected, Model, Piece, Request, frame, judge_of, plan_of
from prefix_scenarios import policy_texts, requests, schedule

from monitor.sidecar.coverage import RESTORED
from monitor.sidecar.plan import TapPlan
from monitor.sidecar.prefix.states import PrefixStates
from monitor.sidecar.request import LiveRequest
from monitor.v1.alerts_pb2 import Alert

PLENTY = 1 << 30


def run(
    plan: TapPlan, frames: Sequence[Sequence[Piece]], block_size: int, max_bytes: int, taps: int = 1
) -> tuple[dict[int, LiveRequest], list[Alert], PrefixStates]:
    """Ended requests by handle, and alerts in the order in which they came out."""
    states = PrefixStates(max_bytes)
    judges = [judge_of(plan, states, block_size) for _ in range(taps)]
    ended: dict[int, LiveRequest] = {}
    alerts: list[Alert] = []
    for seq, pieces in enumerate(frames, 1):
        for tap, judge in enumerate(judges):
            own = [piece for piece in pieces if piece.request.handle % taps == tap]
            verdicts = judge.apply(frame(plan, seq, own))
            alerts += verdicts.alerts
            ended |= {request.identity.handle: request for request in verdicts.ended}
            assert judge.problems.by_kind.keys() <= {"activations not finite"}
    return ended, alerts, states


def cold_run(plan: TapPlan, request: Request, block_size: int) -> LiveRequest:
    return run(plan, [[Piece(request, 0, len(request.tokens))]], block_size, 0)[0][request.handle]


def expectations(plan: TapPlan, frames: Sequence[Sequence[Piece]], block_size: int) -> dict[int, Expected]:
    """With a store that holds everything."""
    model = Model(plan, block_size)
    expected = {piece.request.handle: Expected(piece.request) for pieces in frames for piece in pieces}
    for pieces in frames:
        model.step(pieces, expected)
    return expected


def as_cold_run(alert: Alert) -> Alert:
    copy = Alert.FromString(alert.SerializeToString())
    copy.restored = False
    return copy


def fates(request: LiveRequest) -> list[str]:
    found = np.where(request.coverage.observed_p(), "observed", "hole").tolist()
    for gap in request.coverage.gaps:
        if gap.reason == RESTORED:
            found[gap.first_position : gap.first_position + gap.count] = ["restored"] * gap.count
    return found


def compare(found: LiveRequest, cold: LiveRequest) -> None:
    """Wherever the state is the cold run's, so is everything that was made of it."""
    kinds = fates(found)
    coverage = found.coverage
    assert Counter(kinds) == Counter(
        {"observed": coverage.observed, "restored": coverage.restored, "hole": coverage.dropped + coverage.unseen}
    )
    assert coverage.observed + coverage.restored + coverage.dropped + coverage.unseen == found.positions
    exact, as_cold, last_restored = [], True, 0
    for position, kind in enumerate(kinds):
        as_cold = kind != "hole" and (as_cold or kind == "restored")
        last_restored = position + 1 if kind == "restored" else last_restored
        exact.append(as_cold)
    same = [position for position, kind in enumerate(kinds) if kind == "observed" and exact[position]]
    size = coverage.next_position
    for mine, theirs in zip(found.log.scores(size), cold.log.scores(size), strict=True):
        np.testing.assert_array_equal(mine[same], theirs[same])
    by_id = {alert.alert_id: alert for alert in found.alerts}
    assert len(by_id) == len(found.alerts)
    cold_by_id = {alert.alert_id: alert for alert in cold.alerts}
    assert {id_ for id_, alert in by_id.items() if exact[alert.position]} <= cold_by_id.keys()
    for id_, alert in cold_by_id.items():
        # A rule that fired behind a hole fired with other readings; it is told once. What fired in a hole before a
        # restored boundary is told as well.
        if exact[alert.position] or (alert.position < last_restored and kinds[alert.position] == "hole"):
            assert as_cold_run(by_id[id_]) == alert
        elif alert.position < last_restored:
            assert id_ in by_id
    for alert in found.alerts:
        assert alert.restored == (kinds[alert.position] == "restored") or not exact[alert.position]
    if "hole" not in kinds:
        summary, expected = found.summary(), cold.summary()
        expected.coverage.CopyFrom(summary.coverage)
        assert summary == expected
        assert found.content == cold.content
        assert [alert.alert_id for alert in found.alerts] == [alert.alert_id for alert in cold.alerts]


SEEDS = st.integers(0, 2**32 - 1)


@settings(max_examples=200, deadline=None)
@given(SEEDS)
def test_a_hit_is_judged_as_a_cold_run(seed: int) -> None:
    rng = Random(seed)
    plan, made, block_size = plan_of(policy_texts(rng)), requests(rng), rng.choice([1, 2, 4, 8])
    frames = schedule(rng, made, block_size)
    ended, alerts, states = run(plan, frames, block_size, PLENTY)
    assert ended.keys() == {request.handle for request in made}
    assert len(alerts) == sum(len(request.alerts) for request in ended.values())
    for request in made:
        compare(ended[request.handle], cold_run(plan, request, block_size))
    # Nothing that could be known is missed.
    for handle, expected in expectations(plan, frames, block_size).items():
        assert fates(ended[handle]) == expected.fates
    assert states.stats().evictions == 0


@settings(max_examples=100, deadline=None)
@given(SEEDS)
def test_what_was_evicted_stays_unseen_and_nothing_else_changes(seed: int) -> None:
    rng = Random(seed)
    plan, made, block_size = plan_of(policy_texts(rng)), requests(rng), rng.choice([1, 2, 4])
    max_bytes, taps = rng.randint(0, 20_000), rng.randint(1, 2)
    ended, _, states = run(plan, schedule(rng, made, block_size), block_size, max_bytes, taps)
    for request in made:
        compare(ended[request.handle], cold_run(plan, request, block_size))
    assert states.stats().nbytes <= max_bytes
