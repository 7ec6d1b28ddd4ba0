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
