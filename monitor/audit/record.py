"""Builds the protobuf record of a generation from arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from monitor.v1.alerts_pb2 import Alert
from monitor.v1.engine_pb2 import EngineInfo
from monitor.v1.generations_pb2 import CoverageGap, GenerationRecord, GenerationSummary, Provenance, TokenRecord
from monitor.v1.tap_pb2 import GapReason

UNKNOWN_TOKEN = -1

_GAP_TEXTS: dict[int, str] = {
    GapReason.GAP_REASON_PREFIX_CACHE: "unseen: prefix cache",
    GapReason.GAP_REASON_QUEUE_FULL: "dropped: queue full",
    GapReason.GAP_REASON_SIDECAR_LOST: "dropped: sidecar restarted",
    GapReason.GAP_REASON_NO_PLAN: "dropped: no watch plan",
    GapReason.GAP_REASON_TAP_ERROR: "unseen: tap error",
}


def gap_reason_text(reason: int) -> str:
    """ "dropped: …" or "unseen: …" for a gap's reason; the word before the colon is the coverage field it counts in."""
    return _GAP_TEXTS.get(reason, "dropped: no reason given")


@dataclass(frozen=True)
class Transcript:
    """What was seen token by token; P tokens, D score columns.

    Attributes:
        token_ids_p: int32; UNKNOWN_TOKEN where no frame named the token.
        phases_p: uint8, codes of `monitor.v1.Phase`.
        observed_p: bool.
        scores_pd: the aggregate after each token; NaN where nothing was judged.
        token_scores_pd: the token's own score; NaN where it was not judged.
        texts: one per token, or None when content is withheld.
    """

    token_ids_p: npt.NDArray[np.int32]
    phases_p: npt.NDArray[np.uint8]
    observed_p: npt.NDArray[np.bool_]
    scores_pd: npt.NDArray[np.float32]
    token_scores_pd: npt.NDArray[np.float32]
    texts: Sequence[str] | None


def build_record(
    summary: GenerationSummary,
    transcript: Transcript,
    *,
    score_columns: Sequence[str],
    alerts: Sequence[Alert],
    engine: EngineInfo,
    provenance: Sequence[Provenance],
    gaps: Sequence[CoverageGap],
    notes: Sequence[str],
    sidecar_version: str,
) -> GenerationRecord:
    """The record as it is stored and served. Without texts, token ids are left out as well: they are text too."""
    texts = transcript.texts
    scores, token_scores = transcript.scores_pd.tolist(), transcript.token_scores_pd.tolist()
    token_ids, phases = transcript.token_ids_p.tolist(), transcript.phases_p.tolist()
    observed = transcript.observed_p.tolist()
    tokens = [
        TokenRecord(
            position=position,
            token_id=0 if texts is None else max(token_ids[position], 0),
            text="" if texts is None else texts[position],
            phase=phases[position],
            observed=observed[position],
            scores=scores[position],
            token_scores=token_scores[position],
        )
        for position in range(len(token_ids))
    ]
    return GenerationRecord(
        summary=summary,
        tokens=tokens,
        score_columns=score_columns,
        alerts=alerts,
        engine=engine,
        provenance=provenance,
        gaps=gaps,
        notes=notes,
        sidecar_version=sidecar_version,
        content="none" if texts is None else "full",
    )
