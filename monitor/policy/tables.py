"""A policy set as flat arrays, in the form that the kernel reads."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from monitor.policy.compiled import CompiledDetector, PolicySet
from monitor.policy.vocabulary import AND, NOT, OR, Phase, TokenClass

SUM, HIGHEST, COUNT = 0, 1, 2
_COMBINES = {"weighted_sum": SUM, "max": HIGHEST, "any": COUNT, "all": COUNT, "k_of_n": COUNT}
EMA, ROLLING_MEAN, MAX, COUNT_OVER, CUSUM, MEAN = range(6)
_KINDS = {
    "ema": EMA,
    "rolling_mean": ROLLING_MEAN,
    "max": MAX,
    "count_over": COUNT_OVER,
    "cusum": CUSUM,
    "mean": MEAN,
}
#: Bits that one number of a mask or of a ring holds.
WORD_BITS = 32

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class DetectorTable:
    """One entry per detector d; ``columns[starts[d]:starts[d + 1]]`` are its directions, each with weight and bound.

    Attributes:
        ints_d7: combine, least, aggregate kind, window, ring start, then max, min tokens.
        floats_d8: bias, decay, gain (1 - decay), warn, fire, clear, release (below it warn ends), over or drift.
        judges_cpw: by token class and phase a mask of the detectors that judge such a token. The last class and the
            last phase stand for all unknown ones.
        ring_size: numbers that the rings of all detectors take.
    """

    starts: Ints
    columns: Ints
    weights: Floats
    bounds: Floats
    ints_d7: Ints
    floats_d8: Floats
    judges_cpw: Ints
    ring_size: int

    @classmethod
    def build(cls, policies: PolicySet) -> DetectorTable:
        detectors = policies.detectors
        ints = np.zeros((len(detectors), 7), np.int64)
        floats = np.zeros((len(detectors), 8), np.float64)
        ring = 0
        for d, detector in enumerate(detectors):
            decay = 2.0 ** (-1.0 / detector.half_life) if detector.aggregate == "ema" else 0.0
            ints[d] = (
                _COMBINES[detector.combine],
                detector.least,
                _KINDS[detector.aggregate],
                detector.window,
                ring,
                detector.then_max,
                detector.min_tokens,
            )
            floats[d] = (
                detector.bias,
                decay,
                1.0 - decay,
                detector.warn,
                detector.fire,
                detector.clear,
                min(detector.warn, detector.clear),
                detector.drift if detector.aggregate == "cusum" else detector.over,
            )
            ring += _ring_numbers(detector)
        return cls(
            starts=_starts(len(detector.columns) for detector in detectors),
            columns=_flat(detector.columns for detector in detectors),
            weights=_floats(detector.weights for detector in detectors),
            bounds=_floats(detector.bounds or (0.0,) * len(detector.columns) for detector in detectors),
            ints_d7=ints,
            floats_d8=floats,
            judges_cpw=_judges(detectors),
            ring_size=ring,
        )

    @property
    def ring_starts(self) -> Ints:
        """Where the ring of each detector begins among all rings."""
        return self.ints_d7[:, 4]

    def rings_in_use(self, counts_d: Floats) -> Ints:
        """Numbers of each ring that hold something after so many judged tokens: it fills from its beginning."""
        kinds_d, windows_d = self.ints_d7[:, 2], self.ints_d7[:, 3]
        tokens_d = np.clip(counts_d, 0, windows_d).astype(np.int64)
        return np.select([kinds_d == ROLLING_MEAN, kinds_d == COUNT_OVER], [tokens_d, -(-tokens_d // WORD_BITS)], 0)


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


def mask_words(count: int) -> int:
    """Numbers that a mask of so many bits takes."""
    return -(-count // WORD_BITS)


def packed(wanted: npt.NDArray[np.bool_]) -> Ints:
    """A mask, in bits of numbers."""
    padded = np.zeros(mask_words(wanted.size) * WORD_BITS, np.int64)
    padded[: wanted.size] = wanted
    return np.asarray((padded.reshape(-1, WORD_BITS) << np.arange(WORD_BITS)).sum(axis=1))


def _judges(detectors: Sequence[CompiledDetector]) -> Ints:
    masks = np.zeros((max(TokenClass) + 2, max(Phase) + 2, mask_words(len(detectors))), np.int64)
    for token_class in TokenClass:
        for phase in Phase:
            wanted = [token_class not in detector.skip and phase in detector.phases for detector in detectors]
            masks[token_class, phase] = packed(np.array(wanted, np.bool_))
    return masks


def _ring_numbers(detector: CompiledDetector) -> int:
    """What a detector's ring takes in the row of a request: a score is a number, of bits WORD_BITS are."""
    if detector.aggregate == "rolling_mean":
        return detector.window
    return mask_words(detector.window) if detector.aggregate == "count_over" else 0


def _starts(lengths: Iterable[int]) -> Ints:
    return np.cumsum([0, *lengths], dtype=np.int64)


def _floats(rows: Iterable[tuple[float, ...]]) -> Floats:
    return np.array([value for row in rows for value in row], np.float64)


def _flat(rows: Iterable[tuple[int, ...]]) -> Ints:
    return np.array([value for row in rows for value in row], np.int64)
