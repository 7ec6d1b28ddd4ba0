"""A policy set as flat arrays, in the form that the kernel reads."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from monitor.policy.compiled import PolicySet
from monitor.policy.vocabulary import AND, NOT, OR

EMA, ROLLING_MEAN, MAX = 0, 1, 2
_KINDS = {"ema": EMA, "rolling_mean": ROLLING_MEAN, "max": MAX}

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class DetectorTable:
    """One entry per detector d; ``columns[starts[d]:starts[d + 1]]`` are its directions.

    Attributes:
        ints_d8: combine is max, aggregate kind, window, ring start, then max, min tokens, skip mask, phase mask.
        floats_d7: bias, decay, gain (1 - decay), warn, fire, clear, release (below it warn ends).
    """

    starts: Ints
    columns: Ints
    weights: Floats
    ints_d8: Ints
    floats_d7: Floats
    ring_size: int

    @classmethod
    def build(cls, policies: PolicySet) -> DetectorTable:
        detectors = policies.detectors
        ints = np.zeros((len(detectors), 8), np.int64)
        floats = np.zeros((len(detectors), 7), np.float64)
        ring = 0
        for d, detector in enumerate(detectors):
            decay = 2.0 ** (-1.0 / detector.half_life) if detector.aggregate == "ema" else 0.0
            ints[d] = (
                detector.combine == "max",
                _KINDS[detector.aggregate],
                detector.window,
                ring,
                detector.then_max,
                detector.min_tokens,
                _mask(detector.skip),
                _mask(detector.phases),
            )
            release = min(detector.warn, detector.clear)
            floats[d] = (
                detector.bias,
                decay,
                1.0 - decay,
                detector.warn,
                detector.fire,
                detector.clear,
                release,
            )
            ring += detector.window if detector.aggregate == "rolling_mean" else 0
        return cls(
            starts=_starts(len(detector.columns) for detector in detectors),
            columns=_flat(detector.columns for detector in detectors),
            weights=np.array([weight for detector in detectors for weight in detector.weights], np.float64),
            ints_d8=ints,
            floats_d7=floats,
            ring_size=ring,
        )


@dataclass(frozen=True)
class RuleTable:
    """One entry per rule r: its program, the detectors it names, its hold, and its value while all is clear."""

    program_starts: Ints
    programs: Ints
    detector_starts: Ints
    detectors: Ints
    holds: Ints
    at_rest: npt.NDArray[np.uint8]

    @classmethod
    def build(cls, policies: PolicySet) -> RuleTable:
        rules = policies.rules
        return cls(
            program_starts=_starts(len(rule.program) for rule in rules),
            programs=_flat(rule.program for rule in rules),
            detector_starts=_starts(len(rule.detectors) for rule in rules),
            detectors=_flat(rule.detectors for rule in rules),
            holds=np.array([rule.hold for rule in rules], np.int64),
            at_rest=np.array([_value_at_rest(rule.program) for rule in rules], np.uint8),
        )


def _value_at_rest(program: tuple[int, ...]) -> bool:
    """The condition's value while every detector is clear."""
    stack: list[bool] = []
    for code in program:
        if code == NOT:
            stack.append(not stack.pop())
        elif code in (AND, OR):
            right, left = stack.pop(), stack.pop()
            stack.append(left and right if code == AND else left or right)
        else:
            stack.append(code % 4 == 1)
    return stack.pop()


def _mask(codes: Iterable[int]) -> int:
    return sum(1 << code for code in set(codes))


def _starts(lengths: Iterable[int]) -> Ints:
    return np.cumsum([0, *lengths], dtype=np.int64)


def _flat(rows: Iterable[tuple[int, ...]]) -> Ints:
    return np.array([value for row in rows for value in row], np.int64)
