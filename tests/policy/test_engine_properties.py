"""The engine agrees with a plain reference, and does not depend on how rows come in."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from engine_strategies import ANY_FLOAT, JUDGING, QUARTERS, Rows, policy_sets, rows
from hypothesis import given, settings
from hypothesis import strategies as st
from policy_samples import policy_set
from reference_engine import ReferenceRequest

from monitor.policy import Firing, PolicyEngine, PolicySet


@dataclass
class Outcome:
    token_scores_nd: npt.NDArray[np.float32]
    scores_nd: npt.NDArray[np.float64]
    states_nd: npt.NDArray[np.int8]
    firings: list[Firing]

    def require_equal(self, other: Outcome) -> None:
        """Bit for bit."""
        for mine, theirs in (
            (self.token_scores_nd, other.token_scores_nd),
            (self.scores_nd, other.scores_nd),
            (self.states_nd, other.states_nd),
        ):
            np.testing.assert_array_equal(mine, theirs, strict=True)
        assert self.firings == other.firings


Judging = list[frozenset[str] | None]
EVERYONE: Judging = [None, None, None]


def judged(engine: PolicyEngine, given_rows: Rows, cuts: list[int], judging: Judging = EVERYONE) -> Outcome:
    """Opens a slot per request and advances in the chunks between `cuts`."""
    slots = np.array([engine.open(policies) for policies in judging])
    edges = sorted({0, *(cut for cut in cuts if cut < len(given_rows.requests_n)), len(given_rows.requests_n)})
    parts, firings = [], []
    for first, last in itertools.pairwise(edges):
        chunk = given_rows.take(slice(first, last))
        part = engine.advance(chunk.acts_nk, slots[chunk.requests_n], chunk.classes_n, chunk.phases_n)
        parts.append(part)
        firings += [Firing(first + firing.row, firing.rule) for firing in part.firings]
    for slot in slots:
        engine.close(int(slot))
    return Outcome(
        np.concatenate([part.token_scores_nd for part in parts]),
        np.concatenate([part.scores_nd for part in parts]),
        np.concatenate([part.states_nd for part in parts]),
        firings,
    )


PER_REQUEST = st.lists(JUDGING, min_size=3, max_size=3)


@given(policy_sets(), rows(QUARTERS), PER_REQUEST)
def test_agrees_with_the_reference(policies: PolicySet, given_rows: Rows, judging: Judging) -> None:
    requests = [ReferenceRequest(policies, names) for names in judging]
    expected = [
        requests[request].row([float(act) for act in acts], int(token_class), int(phase))
        for acts, request, token_class, phase in zip(
            given_rows.acts_nk, given_rows.requests_n, given_rows.classes_n, given_rows.phases_n, strict=True
        )
    ]
    found = judged(PolicyEngine(policies), given_rows, [], judging)
    found.require_equal(
        Outcome(
            np.array([row[0] for row in expected], np.float32),
            np.array([row[1] for row in expected], np.float64),
            np.array([row[2] for row in expected], np.int8),
            [Firing(n, rule) for n, row in enumerate(expected) for rule in row[3]],
        )
    )


@given(policy_sets(), rows(ANY_FLOAT), st.lists(st.integers(1, 39), max_size=6), PER_REQUEST)
def test_chunks_and_single_tokens_give_what_the_whole_gives(
    policies: PolicySet, given_rows: Rows, cuts: list[int], judging: Judging
) -> None:
    engine = PolicyEngine(policies)
    whole = judged(engine, given_rows, [], judging)
    judged(engine, given_rows, cuts, judging).require_equal(whole)
    judged(engine, given_rows, list(range(40)), judging).require_equal(whole)


@settings(max_examples=50)
@given(policy_sets(), rows(ANY_FLOAT), PER_REQUEST)
def test_interleaved_requests_are_judged_as_if_alone(policies: PolicySet, given_rows: Rows, judging: Judging) -> None:
    engine = PolicyEngine(policies, capacity=1)
    together = judged(engine, given_rows, [], judging)
    for request in range(3):
        own = np.flatnonzero(given_rows.requests_n == request)
        if own.size:
            alone = judged(engine, given_rows.take(own), [], judging)
            row_of = {int(row): place for place, row in enumerate(own)}
            Outcome(
                together.token_scores_nd[own],
                together.scores_nd[own],
                together.states_nd[own],
                [Firing(row_of[f.row], f.rule) for f in together.firings if f.row in row_of],
            ).require_equal(alone)


@settings(max_examples=50)
@given(policy_sets(), rows(ANY_FLOAT), rows(ANY_FLOAT))
def test_a_replay_gives_the_same_in_a_used_and_in_a_new_engine(
    policies: PolicySet, given_rows: Rows, before: Rows
) -> None:
    used = PolicyEngine(policies, capacity=2)
    judged(used, before, [])
    judged(used, given_rows, []).require_equal(judged(PolicyEngine(policies), given_rows, []))


@settings(max_examples=50)
@given(policy_sets(), rows(ANY_FLOAT))
def test_the_policies_of_a_request_judge_it_as_if_there_were_no_others(policies: PolicySet, given_rows: Rows) -> None:
    named = judged(PolicyEngine(policies), given_rows, [], [frozenset("q")] * 3)
    kept = [d for d, one in enumerate(policies.detectors) if one.policy == "q"]
    rules = [r for r, rule in enumerate(policies.rules) if rule.policy == "q"]
    alone = only(policies, "q")
    expected = judged(PolicyEngine(alone), given_rows, [])
    np.testing.assert_array_equal(named.scores_nd[:, kept], expected.scores_nd)
    np.testing.assert_array_equal(named.states_nd[:, kept], expected.states_nd)
    assert named.firings == [Firing(firing.row, rules[firing.rule]) for firing in expected.firings]


def only(policies: PolicySet, name: str) -> PolicySet:
    """The detectors and rules of one policy, over the same directions."""
    detectors = [one for one in policies.detectors if one.policy == name]
    rules = [(rule.when, rule.hold) for rule in policies.rules if rule.policy == name]
    return replace(policy_set(detectors, rules), directions=policies.directions)


@settings(max_examples=50)
@given(policy_sets(), rows(st.one_of(ANY_FLOAT, st.floats(width=32))))
def test_recorded_token_scores_give_the_same_again(policies: PolicySet, given_rows: Rows) -> None:
    """A record holds the scores of tokens as float32; nothing else of a row is needed."""
    found = judged(PolicyEngine(policies), given_rows, [])
    columns = tuple(replace(policies.directions[0], index=d) for d in range(len(policies.detectors)))
    over_scores = [
        replace(one, columns=(d,), weights=(1.0,), bias=0.0, combine="weighted_sum", bounds=(), least=0)
        for d, one in enumerate(policies.detectors)
    ]
    again = replace(policies, directions=columns, detectors=tuple(over_scores))
    recorded = replace(given_rows, acts_nk=found.token_scores_nd)
    judged(PolicyEngine(again), recorded, []).require_equal(found)
