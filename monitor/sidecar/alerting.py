"""Turns a rule's firing into an Alert."""

from __future__ import annotations

import uuid

import numpy as np
import numpy.typing as npt

from monitor.policy import CompiledRule, Judgement, PolicyEngine
from monitor.policy.request_match import mode_under
from monitor.sidecar.plan import ServedPolicy
from monitor.sidecar.request import LiveRequest
from monitor.sidecar.tokenizer import TokenReader
from monitor.v1.alerts_pb2 import Alert, Contribution, DetectorReading, DetectorState, Mode, Phase, Severity

TOP_CONTRIBUTIONS = 5
# How many tokens before the one that fired are decoded with it.
_CONTEXT_TOKENS = 8
_NAMESPACE = uuid.UUID("5f0f3c1e-6f5c-5b7e-9d55-0c4a3a0e9f11")


def stable_id(*parts: str | int) -> str:
    """The same parts give the same id, in every process."""
    return str(uuid.uuid5(_NAMESPACE, "\x1f".join(map(str, parts))))


def build_alert(
    *,
    tap_id: str,
    request: LiveRequest,
    position: int,
    rule_id: str,
    severity: int,
    served: ServedPolicy,
    particulars: Alert,
    reader: TokenReader,
    now_unix_nanos: int,
    forward_end_unix_nanos: int,
) -> Alert:
    """The alert of a rule that began to fire at `position`, with the fields that `particulars` has set.

    Its id is made of tap, request, policy text, rule and position: judged again, the same event has the same id.
    A policy with `record.content: none` sends neither the token nor its id. Under an exception the mode is shadow.
    """
    policy, identity = served.policy, request.identity
    ids = request.log.ids(max(0, position - _CONTEXT_TOKENS), position + 1).tolist()
    withheld = policy.document.spec.record.content == "none"
    mode = mode_under(particulars.exception, served.mode)
    alert = Alert(
        alert_id=stable_id("alert", tap_id, identity.handle, identity.request_id, policy.sha256, rule_id, position),
        time_unix_nanos=now_unix_nanos,
        policy=policy.name,
        policy_revision=policy.revision,
        policy_sha256=policy.sha256,
        rule=rule_id,
        severity=Severity.ValueType(int(severity)),
        mode=Mode.ValueType(int(mode)),
        mode_source=served.mode_source,
        request_id=identity.request_id,
        external_id=identity.external_id,
        generation_id=identity.generation_id,
        model=identity.model,
        tenant=identity.tenant,
        position=position,
        token_id=0 if withheld else max(ids[-1], 0),
        token="" if withheld else reader.text_of_last(ids),
        phase=Phase.ValueType(int(request.phases.at(position))),
        runbook=policy.document.metadata.runbook or "",
        # Clocks of two processes on one host: a step backwards must not become an enormous unsigned number.
        latency_nanos=max(now_unix_nanos - forward_end_unix_nanos, 0) if forward_end_unix_nanos else 0,
    )
    alert.MergeFrom(particulars)
    return alert


def readings_of(
    engine: PolicyEngine, rule: CompiledRule, judgement: Judgement, row: int, acts_k: npt.NDArray[np.float32]
) -> list[DetectorReading]:
    """How detectors stood on a row, with what contributed most: those that the rule names, then its policy's others.

    The others are evidence: latents say what a dense probe cannot. One that has judged nothing yet is left out.
    """
    readings = []
    named = set(rule.detectors)
    others = [
        d
        for d, detector in enumerate(engine.policies.detectors)
        if detector.policy == rule.policy and d not in named and not np.isnan(judgement.scores_nd[row, d])
    ]
    for d in (*rule.detectors, *others):
        detector = engine.policies.detectors[d]
        top = [entry for entry in engine.contributions(d, acts_k) if entry[1] != 0.0][:TOP_CONTRIBUTIONS]
        readings.append(
            DetectorReading(
                detector=detector.id,
                state=DetectorState.ValueType(int(judgement.states_nd[row, d])),
                score=float(judgement.scores_nd[row, d]),
                token_score=float(judgement.token_scores_nd[row, d]),
                warn=detector.warn,
                fire=detector.fire,
                clear=detector.clear,
                contributions=[
                    Contribution(direction=ref.name, label=ref.label, activation=activation, contribution=contribution)
                    for ref, activation, contribution, _ in top
                ],
                in_rule=d in named,
            )
        )
    return readings
