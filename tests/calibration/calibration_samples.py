"""Policies and made-up generations that the tests of this room share."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from monitor.calibration.generation import Generation
from monitor.policy import Phase, Policy, parse_policy
from monitor.policy.score_trace import ScoreTrace

POLICY = """\
# Kept by hand.
apiVersion: monitor/v1
kind: Policy
metadata: {name: toy, revision: 7}  # raised by calibrate
spec:
  detectors:
    - id: a  # the first
      source: {denseProbe: {file: weights/a.safetensors}}
      aggregate: {kind: max}
      threshold:
        fire: 10  # set by hand
        warn: 8
        clear: 9
    - id: b
      source: {denseProbe: {file: weights/b.safetensors}}
      aggregate: {kind: max}
      threshold: {warn: 4, fire: 5}
      calibration: {targetFpr: 0.05, benign: old, n: 100, hits: 3, recall: 0.5}
  rules:
    - {id: R1, when: WHEN, severity: high}
"""


def prompt_trace(scores_p: dict[str, npt.NDArray[np.float64]]) -> ScoreTrace:
    """Scores of equally many tokens, all of a prompt."""
    (length,) = {len(scores) for scores in scores_p.values()}
    return ScoreTrace(scores_p, np.full(length, Phase.PROMPT, np.uint8))


def policy(when: str = "a.fire", text: str = POLICY) -> Policy:
    return parse_policy(text.replace("WHEN", when), "toy.yaml")


def generations(
    scores: dict[str, Sequence[float]], *, harmful: bool = False, source: str = "s", first: int = 0
) -> list[Generation]:
    """One token each, whose score is the generation's."""
    columns = {f"toy/{name}": np.asarray(values, np.float64) for name, values in scores.items()}
    (count,) = {len(values) for values in columns.values()}
    return [
        Generation(
            f"{source}:{first + index}:{int(harmful)}",
            prompt_trace({name: values[index : index + 1] for name, values in columns.items()}),
            harmful,
            source,
        )
        for index in range(count)
    ]
