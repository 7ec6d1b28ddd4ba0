"""A slow engine in plain Python that recomputes everything from the whole history of a request."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field

import numpy as np

from monitor.policy import CompiledDetector, PolicySet, TokenClass


@dataclass
class ReferenceRequest:
    """One request; `row` takes one token and returns (token scores, scores, states, rules that fire)."""

    policies: PolicySet
    #: Names of the policies that judge it; None: all.
    judging: frozenset[str] | None = None
    history: list[list[float]] = field(init=False)
    conditions: list[list[bool]] = field(init=False)

    def __post_init__(self) -> None:
        self.history = [[] for _ in self.policies.detectors]
        self.conditions = [[] for _ in self.policies.rules]

    def row(
        self, acts: list[float], token_class: int, phase: int
    ) -> tuple[list[float], list[float], list[int], list[int]]:
        token_scores, scores, states = [], [], []
        for detector, history in zip(self.policies.detectors, self.history, strict=True):
            score = _token_score(detector, acts)
            asked = self.judging is None or detector.policy in self.judging
            wanted = token_class in list(TokenClass) and token_class not in detector.skip and phase in detector.phases
            judged = asked and wanted and math.isfinite(score)
            if judged:
                history.append(score)
            token_scores.append(score if judged else math.nan)
            aggregates = _aggregates(detector, history)
            scores.append(aggregates[-1] if aggregates else math.nan)
            states.append(_state(detector, aggregates))
        return token_scores, scores, states, self._fired(token_scores, states)

    def _fired(self, token_scores: list[float], states: list[int]) -> list[int]:
        fired = []
        for index, (rule, past) in enumerate(zip(self.policies.rules, self.conditions, strict=True)):
            if all(math.isnan(token_scores[d]) for d in rule.detectors):
                continue
            past.append(self._holds(rule.when, states))
            run = len(past) - max((i + 1 for i, held in enumerate(past) if not held), default=0)
            if run == rule.hold:
                fired.append(index)
        return fired

    def _holds(self, when: str, states: list[int]) -> bool:
        """Python's own and, or, not."""
        state_of = {one.id: state for one, state in zip(self.policies.detectors, states, strict=True)}
        tests = {"clear": "== 1", "warn": ">= 2", "fire": ">= 3"}
        text = re.sub(r"(\w+)\.(clear|warn|fire)", lambda m: f"({state_of[m[1]]} {tests[m[2]]})", when)
        return bool(eval(text, {"__builtins__": {}}))


def _token_score(detector: CompiledDetector, acts: list[float]) -> float:
    terms = [w * acts[c] for c, w in zip(detector.columns, detector.weights, strict=True)]
    if not all(math.isfinite(term) for term in terms):
        return math.nan
    if detector.combine == "weighted_sum":
        total = 0.0
        for term in terms:
            total += term
    elif detector.combine == "max":
        total = max(terms)
    else:
        over = [term > bound for term, bound in zip(terms, detector.bounds, strict=True)]
        total = {"any": any(over), "all": all(over), "k_of_n": sum(over) >= detector.least}[detector.combine]
    return float(np.float32(total + detector.bias))


def _aggregates(detector: CompiledDetector, history: list[float]) -> list[float]:
    """The aggregate after each judged token."""
    values: list[float] = []
    if detector.aggregate == "ema":
        decay = 2.0 ** (-1.0 / detector.half_life)
        gain, value, weight = 1.0 - decay, 0.0, 0.0
        for score in history:
            weight = decay * weight + gain
            value += (score - value) * (gain / weight)
            values.append(value)
    elif detector.aggregate == "rolling_mean":
        for end in range(1, len(history) + 1):
            window = history[max(0, end - detector.window) : end]
            values.append(sum(window) / len(window))
    elif detector.aggregate == "count_over":
        for end in range(1, len(history) + 1):
            values.append(sum(score > detector.over for score in history[max(0, end - detector.window) : end]))
    elif detector.aggregate == "cusum":
        total = 0.0
        for score in history:
            total = max(0.0, total + score - detector.drift)
            values.append(total)
    elif detector.aggregate == "mean":
        values = [sum(history[:end]) / end for end in range(1, len(history) + 1)]
    else:
        values = [max(history[:end]) for end in range(1, len(history) + 1)]
    if detector.then_max:
        first = detector.min_tokens - 1
        values = [max(values[first : i + 1]) if i >= first else value for i, value in enumerate(values)]
    return values


def _state(detector: CompiledDetector, aggregates: list[float]) -> int:
    clear, warn, fire = 1, 2, 3
    state = clear
    for score in aggregates[detector.min_tokens - 1 :]:
        if score >= detector.fire or (state == fire and score >= detector.clear):
            state = fire
        elif score >= detector.warn or (state != clear and score >= min(detector.warn, detector.clear)):
            state = warn
        else:
            state = clear
    return state
