"""Records as a sidecar would have made them, from the engine's own judgement of made-up activations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from monitor.policy import Mode, Phase, Policy, TokenClass, parse_policy
from monitor.policy.score_trace import ScoreJudge, ScoreTrace
from monitor.replay import Circumstances, Recorded, read_record
from monitor.replay.shelf import Shelf
from monitor.v1.alerts_pb2 import Alert
from monitor.v1.coverage_pb2 import Coverage
from monitor.v1.generations_pb2 import CoverageGap, GenerationRecord, GenerationSummary, Provenance, TokenRecord

POLICY = """\
apiVersion: monitor/v1
kind: Policy
metadata: {name: bio, revision: 1}
spec:
  mode: alert
  match: {models: ["*tiny*"]}
  fittedOn: {model: tiny, dtype: float32}
  detectors:
    - id: smooth
      source: {denseProbe: {file: weights/bio.safetensors}}
      aggregate: {kind: ema, halfLife: 2}
      threshold: {warn: 1, fire: 2, clear: 1.5}
    - id: peak
      source: {saeLatents: {sae: tiny/resid_post.3, latents: [{index: 4, label: bombs}]}}
      aggregate: {kind: max}
      threshold: {fire: 3}
  rules:
    - {id: BIO-001, when: smooth.fire and not peak.fire, for: 2 tokens, severity: high}
    - {id: BIO-002, when: peak.fire, severity: low}
"""
HASHES = {("probe", "weights/bio.safetensors"): "d" * 64, ("sae", "tiny/resid_post.3"): "e" * 64}
MADE_OF = {
    "smooth": {("probe", "weights/bio.safetensors"): "d" * 64},
    "peak": {("sae", "tiny/resid_post.3"): "e" * 64},
}
CIRCUMSTANCES = Circumstances("r", ("tiny",), {"model": "tiny", "dtype": "float32"}, "", "", "2026-11-21")


def policy(text: str = POLICY) -> Policy:
    return parse_policy(text, "bio.yaml")


def record(
    smooth: Sequence[float],
    peak: Sequence[float] | None = None,
    *,
    prompt: int = 2,
    of: Policy | None = None,
    first: int = 0,
    with_text: bool = True,
    generation: str = "gen-1",
) -> GenerationRecord:
    """A generation with these token scores (float32), judged by a policy and written down.

    Positions before `first` came out of the prefix cache: judged for the state, but without rows in the record.
    """
    judged = of or policy()
    scores = np.array([smooth, peak or [0.0] * len(smooth)], np.float32).T.astype(np.float64)
    judge = ScoreJudge([replace(judged, mode=Mode.ALERT)])
    names = [detector.name for detector in judge.policies.detectors]
    size = len(scores)
    phases_p = np.where(np.arange(size) < prompt, Phase.PROMPT, Phase.RESPONSE).astype(np.uint8)
    classes_p = np.full(size, TokenClass.CONTENT, np.uint8)
    classes_p[0] = TokenClass.BOS
    trace = ScoreTrace({name: scores[:, d] for d, name in enumerate(names)}, phases_p, classes_p)
    judgement = judge.judge(trace)
    token_scores = judgement.token_scores_nd.astype(np.float32).astype(np.float64)
    aggregates = judgement.scores_nd.astype(np.float32).astype(np.float64)
    token_scores[:first], aggregates[:first] = np.nan, np.nan
    rules = judge.policies.rules
    return GenerationRecord(
        summary=GenerationSummary(
            generation_id=generation,
            request_id="r",
            coverage=Coverage(positions=size, observed=size - first, restored=first),
            fired=[f"bio/{rules[firing.rule].id}" for firing in judgement.firings],
        ),
        tokens=[_token(p, int(phases_p[p]), token_scores[p], aggregates[p], observed=p >= first) for p in range(size)],
        score_columns=names,
        alerts=[Alert(policy="bio", rule=rules[one.rule].id, position=one.row, mode=3) for one in judgement.firings],
        provenance=[
            Provenance(kind="policy", name="bio", sha256=judged.sha256, text=judged.source if with_text else ""),
            *(Provenance(kind=kind, name=name, sha256=sha256) for (kind, name), sha256 in HASHES.items()),
        ],
        gaps=[CoverageGap(first_position=0, count=first, reason="restored: prefix cache")] if first else [],
        content="full",
    )


def read(one: GenerationRecord, *more: Policy) -> Recorded:
    return read_record(one, CIRCUMSTANCES, Shelf({each.sha256: each for each in more}))


def _token(
    position: int, phase: int, own: npt.NDArray[np.float64], aggregate: npt.NDArray[np.float64], *, observed: bool
) -> TokenRecord:
    text = f" t{position}"
    return TokenRecord(
        position=position,
        phase=phase,
        text=text,
        observed=observed,
        token_scores=own,
        scores=aggregate,  # type: ignore[arg-type]
    )
