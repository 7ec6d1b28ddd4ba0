"""From a live or ended request to its generation record."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from monitor import __version__
from monitor.audit import build_record
from monitor.sidecar.judge import TapJudge
from monitor.sidecar.request import LiveRequest
from monitor.v1.alerts_pb2 import Alert
from monitor.v1.generations_pb2 import GenerationRecord


def prepare_record(request: LiveRequest, judge: TapJudge) -> Callable[[], GenerationRecord]:
    """Copies what the record needs now and returns the function that builds it, to be called in any thread.

    Content is kept unless a policy that fired forbids it, then also in the alerts of the others; a request that
    nothing flagged has none. It names the policies that judge the request, and has columns of scores of these only.
    """
    judging, detectors = request.judging.policies, request.plan.policies.detectors
    columns = [d for d, detector in enumerate(detectors) if detector.policy in judging]
    provenance = [one for one in request.plan.provenance if one.kind != "policy" or one.name in judging]
    summary = request.summary()
    arrays = request.transcript_arrays()
    arrays = replace(arrays, scores_pd=arrays.scores_pd[:, columns], token_scores_pd=arrays.token_scores_pd[:, columns])
    notes = [*request.notes, *request.log.losses()]
    gaps = [gap.message() for gap in request.coverage.gaps]
    keep_content = bool(request.alerts) and request.content == "full"
    alerts = [alert if keep_content else _without_token(alert) for alert in request.alerts]

    def build() -> GenerationRecord:
        transcript = arrays
        if keep_content:
            transcript = replace(arrays, texts=judge.reader.texts(arrays.token_ids_p.tolist()))
        return build_record(
            summary,
            transcript,
            score_columns=[detectors[d].name for d in columns],
            alerts=alerts,
            engine=judge.engine_info,
            provenance=provenance,
            gaps=gaps,
            notes=notes,
            sidecar_version=__version__,
        )

    return build


def _without_token(alert: Alert) -> Alert:
    withheld = Alert()
    withheld.CopyFrom(alert)
    withheld.token, withheld.token_id = "", 0
    return withheld
