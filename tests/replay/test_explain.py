"""Why each detector and rule stood as it did."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from record_samples import MADE_OF, POLICY, policy, read, record

from monitor.errors import FeaturewatchError
from monitor.policy import DetectorState, Mode, Phase
from monitor.policy.score_trace import ScoreJudge, ScoreTrace
from monitor.policy.truth import evaluate
from monitor.policy.when import parse_condition
from monitor.policy_tests.branches import value_of
from monitor.replay import explain
from monitor.replay.explain import truth_of
from monitor.replay.known_states import known_states

SCORES = [0.0, 0, 1.8, 4, 4, 4, 0, -1.5]


def test_states_conditions_and_firings_token_by_token() -> None:
    told = explain(read(record(SCORES)), policy(), {})
    assert told.recorded
    assert (told.mode, told.reason, told.unknown) == (Mode.ALERT, "", ())
    smooth = [DetectorState(code).name for code in told.states_pd[:, 0].tolist()]
    assert smooth == ["CLEAR", "CLEAR", "WARN", "FIRE", "FIRE", "FIRE", "FIRE", "WARN"]
    rule = told.rules[0]
    assert rule.terms == ("smooth.fire", "peak.fire")
    assert rule.terms_p[4] == (True, False)
    assert rule.value_p == [False] * 3 + [True] * 4 + [False]
    assert rule.held_p == [0, 0, 0, 1, 2, 3, 4, 0]
    assert rule.fired == {4: ""}
    assert told.rules[1].fired == {}


def test_tokens_over_which_nothing_changes_are_one_span() -> None:
    told = explain(read(record(SCORES)), policy(), {})
    assert [(span.first, span.last) for span in told.spans] == [(0, 0), (1, 1), (2, 2), (3, 3), (4, 4), (5, 6), (7, 7)]
    calm = explain(read(record([0.0] * 50, prompt=20)), policy(), {})
    assert [(span.first, span.last) for span in calm.spans] == [(0, 0), (1, 19), (20, 49)]


def test_one_rule_and_its_detectors() -> None:
    told = explain(read(record(SCORES)), policy(), {}, "BIO-002")
    assert [detector.id for detector in told.detectors] == ["peak"]
    assert [view.rule.id for view in told.rules] == ["BIO-002"]
    with pytest.raises(FeaturewatchError, match="it has BIO-001, BIO-002"):
        explain(read(record(SCORES)), policy(), {}, "BIO-003")


def test_another_version_of_the_policy() -> None:
    stricter = policy(POLICY.replace("fire: 2, clear: 1.5", "fire: 9, clear: 9"))
    told = explain(read(record(SCORES)), stricter, MADE_OF)
    assert not told.recorded
    assert told.rules[0].fired == {}
    absent = explain(read(record(SCORES)), policy(POLICY.replace("*tiny*", "huge")), MADE_OF)
    assert (absent.mode, absent.reason) == (Mode.OFF, "match.models (huge) does not fit tiny")


def test_behind_restored_positions_only_what_is_certain_is_said() -> None:
    told = explain(read(record([0.0, 1.7, 1.7, 1.7, 1.7, 9, 9, 0, 0], first=3)), policy(), {})
    assert told.unknown[0].startswith("states of smooth are shown only where they are certain: positions were restored")
    assert told.states_pd[:, 0].tolist() == [0, 0, 0, 0, 0, 3, 3, 3, 3]
    assert told.rules[0].value_p[4] is None
    assert told.rules[0].held_p[5] is None
    assert told.rules[0].fired == {6: ""}


# Making an engine may compile its kernel.
@settings(deadline=None)
@given(
    st.lists(st.floats(-5, 5, width=32) | st.just(float("nan")), min_size=1, max_size=30),
    st.integers(0, 29),
    st.sampled_from(["minTokens: 1", "minTokens: 4", "then: max", "then: max, minTokens: 3"]),
)
def test_what_is_said_to_be_certain_is_what_the_engine_did(scores: list[float], cut: int, more: str) -> None:
    changed = policy(POLICY.replace("halfLife: 2", f"halfLife: 2, {more}"))
    judge = ScoreJudge([changed])
    phases_p = np.full(len(scores), Phase.PROMPT, np.uint8)
    judgement = judge.judge(ScoreTrace({"bio/smooth": np.array(scores)}, phases_p))
    tokens_p = judgement.token_scores_nd[:, 0].astype(np.float64)
    scores_p = judgement.scores_nd[:, 0].copy()
    tokens_p[:cut], scores_p[:cut] = np.nan, np.nan
    found = known_states(judge.policies.detectors[0], tokens_p, scores_p)
    known = found != 0
    assert np.array_equal(found[known], judgement.states_nd[known, 0])


@given(
    st.sampled_from(["a.fire", "not a.warn", "a.fire and b.clear", "a.warn or not b.fire", "not (a.fire or b.warn)"]),
    st.fixed_dictionaries({name: st.sampled_from([0, 1, 2, 3]) for name in "ab"}),
)
def test_a_condition_is_known_where_all_possible_states_agree(text: str, states: dict[str, int]) -> None:
    condition = parse_condition(text)
    possible = [
        {"a": a, "b": b}
        for a in DetectorState
        for b in DetectorState
        if states["a"] in (0, a) and states["b"] in (0, b)
    ]
    values = {value_of(condition, one) for one in possible}
    found = evaluate(condition, lambda _, literal: truth_of(literal, states))
    assert found == (values.pop() if len(values) == 1 else None)
