"""Tells that thresholds were fitted on another configuration than the one that is served."""

from __future__ import annotations

from collections.abc import Collection

from monitor.policy import STALE_RULE
from monitor.policy import Mode as PolicyMode
from monitor.policy.vocabulary import RESERVED_SEVERITIES
from monitor.sidecar.alerting import stable_id
from monitor.sidecar.plan import ServedPolicy, TapPlan
from monitor.v1.alerts_pb2 import Alert, Mode, ModeSource
from monitor.v1.alerts_pb2 import Severity as SeverityCode


def stale_alerts(
    plan: TapPlan,
    names: Collection[str] | None = None,
    *,
    tap_id: str,
    session_id: str,
    model: str,
    now_unix_nanos: int,
) -> list[Alert]:
    """One alert of rule `on-stale` for each policy of a plan whose `fittedOn` differs from the serving configuration;
    with `names` for these only.

    It is of no request. It is sent although the policy has fallen to shadow, for that is what it tells; of a policy
    that would be in shadow in any case it is a shadow alert.
    """
    return [
        _alert(served, plan, tap_id=tap_id, session_id=session_id, model=model, now_unix_nanos=now_unix_nanos)
        for name, served in plan.served.items()
        if served.stale and served.asked_mode is not PolicyMode.OFF and (names is None or name in names)
    ]


def _alert(
    served: ServedPolicy, plan: TapPlan, *, tap_id: str, session_id: str, model: str, now_unix_nanos: int
) -> Alert:
    policy = served.policy
    sent = served.asked_mode >= PolicyMode.ALERT
    # What was not sent before must not look like a copy of it when it is.
    told = ("stale" if sent else "stale in shadow", tap_id, session_id, plan.watch_plan.version, policy.sha256)
    return Alert(
        alert_id=stable_id(*told, *served.mismatches),
        time_unix_nanos=now_unix_nanos,
        policy=policy.name,
        policy_revision=policy.revision,
        policy_sha256=policy.sha256,
        rule=STALE_RULE,
        severity=SeverityCode.ValueType(int(RESERVED_SEVERITIES[STALE_RULE])),
        mode=Mode.MODE_ALERT if sent else Mode.MODE_SHADOW,
        mode_source=ModeSource.MODE_SOURCE_STALE if sent else served.mode_source,
        model=model,
        runbook=policy.document.metadata.runbook or "",
    )
