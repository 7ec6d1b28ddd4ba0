"""Random policy sets and rows for property tests of the engine."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from hypothesis import strategies as st
from policy_samples import detector, policy_set

from monitor.policy import CompiledDetector, Phase, PolicySet, TokenClass

NUM_DIRECTIONS = 4
#: Quarters: their sums are exact, so the reference may add them in another order.
QUARTERS = st.integers(-20, 20).map(lambda n: n / 4)
ODD_VALUES = st.sampled_from([float("nan"), float("inf"), float("-inf")])
ANY_FLOAT = st.floats(-100, 100, width=32)
#: The last ones are longer than the bits of one number of a ring, and than one ring of rows.
WINDOWS = st.sampled_from([1, 2, 3, 4, 5, 32, 33, 70])
#: Detectors of each policy.
POLICIES = {"p": ("a", "b", "c"), "q": ("e", "f")}
#: Who judges a request; None: all.
JUDGING = st.one_of(st.none(), st.sets(st.sampled_from(list(POLICIES))).map(frozenset))


def conditions(names: tuple[str, ...]) -> st.SearchStrategy[str]:
    """Any condition over these detectors; and, or, not with and without parentheses."""
    state = st.builds("{}.{}".format, st.sampled_from(names), st.sampled_from(["clear", "warn", "fire"]))
    return st.recursive(
        state,
        lambda inner: st.one_of(
            st.builds("not ({})".format, inner),
            st.builds("{} and {}".format, inner, inner),
            st.builds("{} or {}".format, inner, inner),
            st.builds("({} or {}) and not {}".format, inner, inner, state),
        ),
        max_leaves=5,
    )


@st.composite
def detectors(draw: st.DrawFn, name: str, policy: str) -> CompiledDetector:
    columns = draw(st.lists(st.integers(0, NUM_DIRECTIONS - 1), min_size=1, max_size=3, unique=True))
    fire = draw(QUARTERS)
    kind = draw(st.sampled_from(["ema", "rolling_mean", "max", "count_over", "cusum", "mean"]))
    combine = draw(st.sampled_from(["weighted_sum", "max", "any", "all", "k_of_n"]))
    counts = combine in ("any", "all", "k_of_n")
    return detector(
        name,
        tuple(columns),
        weights=tuple(draw(st.sampled_from([0.5, 1.0, -1.0, 2.0])) for _ in columns),
        bias=0.0 if counts else draw(st.sampled_from([0.0, -0.25])),
        combine=combine,
        bounds=tuple(draw(st.sampled_from([-1.0, 0.0, 0.25, 2.0])) for _ in columns) if counts else (),
        least={"any": 1, "all": len(columns), "k_of_n": draw(st.integers(1, len(columns)))}.get(combine, 0),
        aggregate=kind,
        half_life=draw(st.sampled_from([0.5, 1.0, 3.0])) if kind == "ema" else 0.0,
        window=draw(WINDOWS) if kind in ("rolling_mean", "count_over") else 0,
        over=draw(QUARTERS) if kind == "count_over" else 0.0,
        drift=draw(QUARTERS) if kind == "cusum" else 0.0,
        then_max=kind != "max" and draw(st.booleans()),
        min_tokens=draw(st.integers(1, 4)),
        skip=tuple(draw(st.sets(st.sampled_from(list(TokenClass)), max_size=2))),
        phases=tuple(draw(st.sets(st.sampled_from(list(Phase)), min_size=1))),
        policy=policy,
        fire=fire,
        warn=fire - draw(st.sampled_from([0.0, 0.5, 2.0])),
        clear=fire - draw(st.sampled_from([0.0, 1.0, 3.0])),
    )


@st.composite
def policy_sets(draw: st.DrawFn) -> PolicySet:
    watching = [draw(detectors(name, policy)) for policy, names in POLICIES.items() for name in names]
    one_rule = st.tuples(st.one_of([conditions(names) for names in POLICIES.values()]), st.integers(1, 3))
    anchor = detector("d", (NUM_DIRECTIONS - 1,))
    return policy_set([*watching, anchor], draw(st.lists(one_rule, min_size=1, max_size=5)))


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
        codes([0, 0, 0, 200, *map(int, TokenClass)]).astype(np.uint8),
        codes([0, 9, *map(int, Phase), *map(int, Phase)]).astype(np.uint8),
    )
