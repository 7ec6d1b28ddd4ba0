"""The engine agrees with a plain reference, and does not depend on how rows come in."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from hypothesis import given
from hypothesis import strategies as st
from policy_samples import detector, policy_set
from reference_engine import ReferenceRequest

from monitor.policy import CompiledDetector, Firing, Phase, PolicyEngine, PolicySet, TokenClass

NUM_DIRECTIONS = 4
#: Quarters: their sums are exact, so the reference may add them in another order.
QUARTERS = st.integers(-20, 20).map(lambda n: n / 4)
ODD_VALUES = st.sampled_from([float("nan"), float("inf"), float("-inf")])
ANY_FLOAT = st.floats(-100, 100, width=32)
CONDITIONS = (
    "a.fire",
    "not a.fire",
    "a.warn and b.warn or c.fire",
    "a.warn and (b.warn or c.fire)",
    "not (a.clear or b.fire) and not c.clear",
    "a.fire or b.fire or c.fire",
)


@st.composite
def detectors(draw: st.DrawFn, name: str) -> CompiledDetector:
    columns = draw(st.lists(st.integers(0, NUM_DIRECTIONS - 1), min_size=1, max_size=3, unique=True))
    fire = draw(QUARTERS)
    kind = draw(st.sampled_from(["ema", "rolling_mean", "max"]))
    return detector(
        name,
        tuple(columns),
        weights=tuple(draw(st.sampled_from([0.5, 1.0, -1.0, 2.0])) for _ in columns),
        bias=draw(st.sampled_from([0.0, -0.25])),
        combine=draw(st.sampled_from(["weighted_sum", "max"])),
        aggregate=kind,
        half_life=draw(st.sampled_from([0.5, 1.0, 3.0])) if kind == "ema" else 0.0,
        window=draw(st.integers(1, 5)) if kind == "rolling_mean" else 0,
        then_max=kind != "max" and draw(st.booleans()),
        min_tokens=draw(st.integers(1, 4)),
        skip=tuple(draw(st.sets(st.sampled_from(list(TokenClass)), max_size=2))),
        phases=tuple(draw(st.sets(st.sampled_from([Phase.PROMPT, Phase.RESPONSE]), min_size=1))),
        fire=fire,
        warn=fire - draw(st.sampled_from([0.0, 0.5, 2.0])),
        clear=fire - draw(st.sampled_from([0.0, 1.0, 3.0])),
    )


@st.composite
def policy_sets(draw: st.DrawFn) -> PolicySet:
    rules = draw(st.lists(st.tuples(st.sampled_from(CONDITIONS), st.integers(1, 3)), min_size=1, max_size=4))
    anchor = detector("d", (NUM_DIRECTIONS - 1,))
    return policy_set([*(draw(detectors(name)) for name in "abc"), anchor], rules)


@dataclass
class Rows:
    acts_nk: npt.NDArray[np.float32]
    requests_n: npt.NDArray[np.int64]
    classes_n: npt.NDArray[np.uint8]
    phases_n: npt.NDArray[np.uint8]

    def take(self, index: slice | npt.NDArray[np.int64]) -> Rows:
        return Rows(self.acts_nk[index], self.requests_n[index], self.classes_n[index], self.phases_n[index])


@st.composite
def rows(draw: st.DrawFn, values: st.SearchStrategy[float], num_requests: int = 3) -> Rows:
    count = draw(st.integers(1, 40))
    value = st.one_of(*[values] * 12, ODD_VALUES)
    acts = draw(st.lists(value, min_size=count * NUM_DIRECTIONS, max_size=count * NUM_DIRECTIONS))

    def codes(choices: list[int]) -> npt.NDArray[np.int64]:
        return np.array(draw(st.lists(st.sampled_from(choices), min_size=count, max_size=count)))

    return Rows(
        np.array(acts, np.float32).reshape(count, NUM_DIRECTIONS),
        codes(list(range(num_requests))),
        codes([0, 0, 0, *map(int, TokenClass)]).astype(np.uint8),
        codes([int(Phase.PROMPT), int(Phase.RESPONSE)]).astype(np.uint8),
    )


@dataclass
class Outcome:
    token_scores_nd: npt.NDArray[np.float64]
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


def judged(engine: PolicyEngine, given_rows: Rows, cuts: list[int]) -> Outcome:
    """Opens a slot per request and advances in the chunks between `cuts`."""
    slots = np.array([engine.open() for _ in range(3)])
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


@given(policy_sets(), rows(QUARTERS))
def test_agrees_with_the_reference(policies: PolicySet, given_rows: Rows) -> None:
    requests = [ReferenceRequest(policies) for _ in range(3)]
    expected = [
        requests[request].row([float(act) for act in acts], int(token_class), int(phase))
        for acts, request, token_class, phase in zip(
            given_rows.acts_nk, given_rows.requests_n, given_rows.classes_n, given_rows.phases_n, strict=True
        )
    ]
    found = judged(PolicyEngine(policies), given_rows, [])
    found.require_equal(
        Outcome(
            np.array([row[0] for row in expected], np.float64),
            np.array([row[1] for row in expected], np.float64),
            np.array([row[2] for row in expected], np.int8),
            [Firing(n, rule) for n, row in enumerate(expected) for rule in row[3]],
        )
    )


@given(policy_sets(), rows(ANY_FLOAT), st.lists(st.integers(1, 39), max_size=6))
def test_chunks_and_single_tokens_give_what_the_whole_gives(
    policies: PolicySet, given_rows: Rows, cuts: list[int]
) -> None:
    engine = PolicyEngine(policies)
    whole = judged(engine, given_rows, [])
    judged(engine, given_rows, cuts).require_equal(whole)
    judged(engine, given_rows, list(range(40))).require_equal(whole)


@given(policy_sets(), rows(ANY_FLOAT))
def test_interleaved_requests_are_judged_as_if_alone(policies: PolicySet, given_rows: Rows) -> None:
    engine = PolicyEngine(policies, capacity=1)
    together = judged(engine, given_rows, [])
    for request in range(3):
        own = np.flatnonzero(given_rows.requests_n == request)
        if own.size:
            alone = judged(engine, given_rows.take(own), [])
            row_of = {int(row): place for place, row in enumerate(own)}
            Outcome(
                together.token_scores_nd[own],
                together.scores_nd[own],
                together.states_nd[own],
                [Firing(row_of[f.row], f.rule) for f in together.firings if f.row in row_of],
            ).require_equal(alone)


@given(policy_sets(), rows(ANY_FLOAT), rows(ANY_FLOAT))
def test_a_replay_gives_the_same_in_a_used_and_in_a_new_engine(
    policies: PolicySet, given_rows: Rows, before: Rows
) -> None:
    used = PolicyEngine(policies, capacity=2)
    judged(used, before, [])
    judged(used, given_rows, []).require_equal(judged(PolicyEngine(policies), given_rows, []))
