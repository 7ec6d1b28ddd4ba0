"""Which policies judge a request is decided when its slot is opened."""

from __future__ import annotations

import numpy as np
import pytest
from policy_samples import detector, policy_set

from monitor.policy import Firing, Judgement, PolicyEngine

RULES = [("a.fire", 1), ("not a.fire", 1), ("b.fire", 2), ("not b.fire", 1), ("b.clear", 3)]
POLICIES = policy_set([detector("a", policy="p"), detector("b", (1,), policy="q")], RULES)


def judge(engine: PolicyEngine, slot: int, values: list[float]) -> Judgement:
    """Rows on which both directions have the same activation."""
    count = len(values)
    acts = np.repeat(np.array(values, np.float32)[:, None], 2, axis=1)
    return engine.advance(acts, np.full(count, slot), np.zeros(count, np.uint8), np.full(count, 3, np.uint8))


def test_all_policies_judge_unless_some_are_named() -> None:
    engine = PolicyEngine(POLICIES)
    found = judge(engine, engine.open(), [0, 2, 2])
    assert found.firings == (Firing(0, 1), Firing(0, 3), Firing(1, 0), Firing(2, 2))


@pytest.mark.parametrize(
    ("named", "columns", "firings"),
    [
        (["p"], [0], (Firing(0, 1), Firing(1, 0))),
        ({"q"}, [1], (Firing(0, 3), Firing(2, 2))),
        ((), [], ()),
    ],
)
def test_the_others_judge_nothing_and_their_rules_never_fire(
    named: list[str], columns: list[int], firings: tuple[Firing, ...]
) -> None:
    engine = PolicyEngine(POLICIES)
    slot = engine.open(named)
    found = judge(engine, slot, [0, 2, 2])
    judged = [d for d in range(2) if np.isfinite(found.token_scores_nd[:, d]).all()]
    silent = [d for d in range(2) if np.isnan(found.scores_nd[:, d]).all() and (found.states_nd[:, d] == 1).all()]
    assert (judged, silent) == (columns, [d for d in range(2) if d not in columns])
    assert found.firings == firings
    assert np.isnan(engine.peaks(slot).scores_d).tolist() == [d not in columns for d in range(2)]


def test_a_slot_that_is_opened_again_is_judged_by_whom_it_says() -> None:
    engine = PolicyEngine(POLICIES, capacity=1)
    first = engine.open(["q"])
    judge(engine, first, [2, 2])
    engine.close(first)
    again = engine.open()
    assert again == first
    assert judge(engine, again, [2, 2]).firings == (Firing(0, 0), Firing(1, 2))


def test_refuses_a_policy_that_is_not_in_the_set() -> None:
    with pytest.raises(ValueError, match=r"policy 'x' is not in this set of policies \(p, q\)"):
        PolicyEngine(POLICIES).open(["p", "x"])
