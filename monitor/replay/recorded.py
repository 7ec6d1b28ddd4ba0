"""A generation record as arrays, with the policies that judged it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from monitor.policy import Judgement, Policy, PolicyError
from monitor.policy.score_trace import ScoreTrace
from monitor.replay.shelf import Shelf
from monitor.v1.generations_pb2 import GenerationRecord


@dataclass(frozen=True)
class Circumstances:
    """Of a generation: what decides whether a policy judges it and in which mode.

    Attributes:
        models: names of its model.
        serving: values that `fittedOn` is compared with.
        day: on which it began, in UTC, as ISO 8601 writes it.
    """

    request_id: str
    models: tuple[str, ...]
    serving: Mapping[str, str]
    tenant: str
    adapter: str
    day: str


@dataclass(frozen=True)
class Recorded:
    """P tokens, D score columns.

    Attributes:
        policies: those that judged it, by name, as far as the record has their texts.
        without_text: why other policies cannot be read, by name.
        phases_p: uint8, codes of `Phase`.
        observed_p: bool.
        token_scores_pd, scores_pd: float64 as recorded; NaN where nothing was judged, or not known.
    """

    record: GenerationRecord
    circumstances: Circumstances
    shelf: Shelf
    policies: Mapping[str, Policy]
    without_text: Mapping[str, str]
    phases_p: npt.NDArray[np.uint8]
    observed_p: npt.NDArray[np.bool_]
    token_scores_pd: npt.NDArray[np.float64]
    scores_pd: npt.NDArray[np.float64]

    @property
    def id(self) -> str:
        return self.record.summary.generation_id

    @property
    def columns(self) -> list[str]:
        """``<policy>/<detector>`` of each score column."""
        return list(self.record.score_columns)

    def trace(self, scores_p: dict[str, npt.NDArray[np.float64]]) -> ScoreTrace:
        """Token scores by detector; token classes are not recorded, what was skipped is NaN."""
        return ScoreTrace(scores_p, self.phases_p)

    @cached_property
    def incomplete(self) -> dict[str, str]:
        """Why the token scores of a column do not lead to the recorded verdict, by column; absent where they do.

        The recorded policies judge the recorded token scores again: where nothing is missing the aggregates come out
        as recorded, bit for bit.
        """
        judge = self.shelf.judge(self.policies.values())
        columns = self.columns
        judgement = judge.judge(self.trace({name: self.token_scores_pd[:, d] for d, name in enumerate(columns)}))
        why = {}
        for d, detector in enumerate(judge.policies.detectors):
            if detector.name not in columns:
                why[detector.name] = "its scores are not recorded"
                continue
            column = columns.index(detector.name)
            if not self._comes_out(judgement, d, column):
                why[detector.name] = self._what_is_missing()
            elif self.record.summary.coverage.restored and not self._began_behind(column):
                why[detector.name] = "positions were restored from the prefix cache, without token scores"
        return why

    def _comes_out(self, judgement: Judgement, d: int, column: int) -> bool:
        again, recorded = judgement.scores_nd[:, d].astype(np.float32), self.scores_pd[:, column].astype(np.float32)
        return np.array_equal(again[self.observed_p], recorded[self.observed_p], equal_nan=True)

    def _began_behind(self, column: int) -> bool:
        """Whether the record shows that nothing was judged within restored positions: a token behind them has no
        aggregate yet."""
        restored = [gap for gap in self.record.gaps if gap.reason.startswith("restored")]
        behind = max((gap.first_position + gap.count for gap in restored), default=len(self.observed_p))
        return bool((np.isnan(self.scores_pd[behind:, column]) & self.observed_p[behind:]).any())

    def _what_is_missing(self) -> str:
        if any("were given up" in note for note in self.record.notes):
            return "scores were given up: the sidecar's pool of histories was full"
        if self.record.summary.coverage.restored:
            return "positions were restored from the prefix cache, without token scores"
        return "the recorded token scores do not lead to the recorded verdict"


def read_record(record: GenerationRecord, circumstances: Circumstances, shelf: Shelf) -> Recorded:
    """Reads a record from the store or the sidecar; never raises for what it holds."""
    policies, without_text = {}, {}
    for entry in record.provenance:
        if entry.kind != "policy":
            continue
        try:
            policy = shelf.policy(entry)
        except PolicyError as error:
            without_text[entry.name] = f"this version cannot read its recorded text: {error.rule}"
            continue
        if policy is None:
            without_text[entry.name] = "its text is not in the record"
        else:
            policies[entry.name] = policy
    size, columns = len(record.tokens), len(record.score_columns)
    token_scores, scores = np.full((size, columns), np.nan), np.full((size, columns), np.nan)
    for row, token in enumerate(record.tokens):
        if token.token_scores:
            token_scores[row], scores[row] = token.token_scores, token.scores
    return Recorded(
        record=record,
        circumstances=circumstances,
        shelf=shelf,
        policies=policies,
        without_text=without_text,
        phases_p=np.array([token.phase for token in record.tokens], np.uint8),
        observed_p=np.array([token.observed for token in record.tokens], np.bool_),
        token_scores_pd=token_scores,
        scores_pd=scores,
    )
