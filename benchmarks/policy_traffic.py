"""Policies and rows for measurements of the policy engine: every kind of detector, rules over them, live requests."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import numpy.typing as npt

from monitor.policy import CompiledDetector, CompiledRule, DirectionRef, Phase, PolicyEngine, PolicySet, Severity
from monitor.policy.when import parse_condition

ROWS = 1000
POLICIES = 4
#: Columns and combine of a detector: dense probe, SAE probe, latents.
SOURCES: list[tuple[int, dict[str, Any]]] = [
    (1, {"source": "denseProbe"}),
    (8, {"source": "saeProbe", "bias": -0.5}),
    (3, {"combine": "max"}),
    (3, {"combine": "any", "bounds": (0.5, 0.5, 0.5), "least": 1}),
    (3, {"combine": "weighted_sum"}),
    (3, {"combine": "k_of_n", "bounds": (0.5, 0.5, 0.5), "least": 2}),
]
LONGEST_WINDOW = 64
AGGREGATES: list[dict[str, Any]] = [
    {"aggregate": "ema", "half_life": 8.0},
    {"aggregate": "rolling_mean", "window": 16},
    {"aggregate": "max"},
    {"aggregate": "count_over", "window": LONGEST_WINDOW, "over": 1.0},
    {"aggregate": "cusum", "drift": 0.5},
    {"aggregate": "mean"},
    {"aggregate": "ema", "half_life": 16.0, "then_max": True},
]
#: Of an aggregate, about what one row in a few hundred first reaches.
FIRE = {"ema": 2.0, "rolling_mean": 1.5, "max": 6.0, "count_over": 24.0, "cusum": 20.0, "mean": 1.2}
CONDITIONS = (
    "{0}.fire",
    "{0}.warn and not {1}.fire",
    "{0}.fire or ({1}.warn and {2}.warn)",
    "not {0}.clear and {2}.fire",
)


def policy_set(num_detectors: int, num_rules: int) -> PolicySet:
    """Detectors in the order of their policies; a policy's rules name its own detectors."""
    detectors, columns = list[CompiledDetector](), 0
    for d in range(num_detectors):
        width, source = SOURCES[d % len(SOURCES)]
        aggregate = AGGREGATES[d % len(AGGREGATES)]
        fire = FIRE[aggregate["aggregate"]]
        fields: dict[str, Any] = {"source": "saeLatents", "combine": "weighted_sum", "bias": 0.0, "half_life": 0.0}
        fields |= {"window": 0, "then_max": False, **source, **aggregate}
        detectors.append(
            CompiledDetector(
                policy=f"p{d * POLICIES // num_detectors}",
                id=f"d{d}",
                columns=tuple(range(columns, columns + width)),
                weights=tuple(1.0 + 0.25 * (k % 3) for k in range(width)),
                min_tokens=4,
                skip=(),
                phases=tuple(Phase),
                warn=0.75 * fire,
                fire=fire,
                clear=0.5 * fire,
                **fields,
            )
        )
        columns += width
    rules = tuple(_rule(detectors, r) for r in range(num_rules))
    directions = tuple(DirectionRef("resid_post.1", "latent", "sae", k, "") for k in range(columns))
    return PolicySet((), directions, tuple(detectors), rules)


def _rule(detectors: list[CompiledDetector], r: int) -> CompiledRule:
    policy = f"p{r % POLICIES}"
    names = [one.id for one in detectors if one.policy == policy]
    condition = parse_condition(
        CONDITIONS[r % len(CONDITIONS)].format(*(names[(r + k) % len(names)] for k in range(3)))
    )
    index_of = {one.id: d for d, one in enumerate(detectors)}
    named = tuple(index_of[name] for name in condition.detectors)
    return CompiledRule(policy, 1, f"R{r}", Severity.LOW, 1 + r % 3, named, "", condition.program(index_of), ("alert",))


def activations(columns: int, calls: int) -> list[npt.NDArray[np.float32]]:
    """Mostly zero with a long tail, as latents are; their means differ from row to row, as texts do."""
    rng = np.random.default_rng(0)
    level_n = rng.gamma(0.5, 1.0, (calls * ROWS, 1))
    active = rng.random((calls * ROWS, columns)) < 0.2
    acts = np.where(active, level_n * rng.exponential(1.0, active.shape), 0.0).astype(np.float32)
    return [np.ascontiguousarray(part) for part in np.split(acts, calls)]


class Traffic:
    """Calls of ROWS rows that go round all live requests."""

    def __init__(self, policies: PolicySet, live: int) -> None:
        self.engine = PolicyEngine(policies, capacity=live)
        slots = [self.engine.open() for _ in range(live)]
        self._acts = activations(len(policies.directions), calls=16)
        calls = max(len(self._acts), live // ROWS)
        rng = np.random.default_rng(1)
        turns = np.concatenate([rng.permutation(slots) for _ in range(-(-calls * ROWS // live))])
        self._slots = np.split(turns[: calls * ROWS], calls)
        self._classes, self._phases = np.zeros(ROWS, np.uint8), np.full(ROWS, Phase.RESPONSE, np.uint8)
        self._positions = np.zeros(ROWS, np.int64)
        self.calls = calls
        self.firings = 0

    def round(self) -> float:
        """Microseconds a row, over all calls of one round."""
        seconds = 0.0
        self.firings = 0
        for call in range(self.calls):
            begun = time.perf_counter()
            judgement = self.engine.advance(
                self._acts[call % len(self._acts)],
                self._slots[call],
                self._classes,
                self._phases,
                positions_n=self._positions,
            )
            seconds += time.perf_counter() - begun
            self.firings += len(judgement.firings)
        return 1e6 * seconds / (self.calls * ROWS)
