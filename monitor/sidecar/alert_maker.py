"""Makes, counts and files the alerts of one tap."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from monitor.policy import UNSEEN_RULE, CompiledRule, Mode, Severity
from monitor.sidecar.alerting import build_alert
from monitor.sidecar.ledger import PolicyLedger
from monitor.sidecar.plan import TapPlan
from monitor.sidecar.problem_log import ProblemLog
from monitor.sidecar.request import LiveRequest
from monitor.sidecar.tokenizer import TokenReader
from monitor.v1.alerts_pb2 import Alert, DetectorReading

_log = logging.getLogger(__name__)


class AlertMaker:
    """Every alert that it makes is in its request's books and in the ledger."""

    def __init__(
        self,
        *,
        tap_id: str,
        plan: TapPlan,
        reader: TokenReader,
        ledger: PolicyLedger,
        problems: ProblemLog,
        clock: Callable[[], int],
    ) -> None:
        self._tap_id = tap_id
        self._plan = plan
        self._reader = reader
        self._ledger = ledger
        self._problems = problems
        self._clock = clock

    def is_off(self, policy: str) -> bool:
        """Whether a policy was switched off since the requests began that it judges: no alert is made of it."""
        return self._plan.served[policy].mode is Mode.OFF

    def fired(
        self,
        request: LiveRequest,
        position: int,
        rule: CompiledRule,
        readings: Sequence[DetectorReading],
        forward_end_unix_nanos: int,
        *,
        restored: bool = False,
    ) -> Alert:
        """A rule began to fire; `restored`: on positions whose state came out of the store of prefixes."""
        return self._make(
            request,
            position,
            rule.policy,
            rule_id=rule.id,
            severity=rule.severity,
            forward_end_unix_nanos=forward_end_unix_nanos,
            readings=readings,
            restored=restored,
        )

    def unseen(
        self, request: LiveRequest, position: int, count: int, policy: str, forward_end_unix_nanos: int
    ) -> Alert:
        """`count` positions from `position` on stay unseen, and the policy wants to be told."""
        return self._make(
            request,
            position,
            policy,
            rule_id=UNSEEN_RULE,
            severity=Severity.LOW,
            forward_end_unix_nanos=forward_end_unix_nanos,
            unseen_positions=count,
        )

    def failed(self, request: LiveRequest, position: int, rule: CompiledRule) -> None:
        """Called while an exception is handled: tells that an alert is lost because of it."""
        told = f"{rule.policy}/{rule.id} fired at position {position}, but its alert could not be made"
        _log.exception("tap %s: request %s: %s", self._tap_id, request.identity.request_id, told)
        self._problems.note("alert failed", told)
        request.notes.append(told)

    def _make(
        self,
        request: LiveRequest,
        position: int,
        policy: str,
        *,
        rule_id: str,
        severity: Severity,
        forward_end_unix_nanos: int,
        readings: Sequence[DetectorReading] = (),
        restored: bool = False,
        unseen_positions: int = 0,
    ) -> Alert:
        served = self._plan.served[policy]
        alert = build_alert(
            tap_id=self._tap_id,
            request=request,
            position=position,
            rule_id=rule_id,
            severity=severity,
            served=served,
            readings=readings,
            reader=self._reader,
            now_unix_nanos=self._clock(),
            forward_end_unix_nanos=forward_end_unix_nanos,
            restored=restored,
            unseen_positions=unseen_positions,
        )
        request.add_alert(alert, served.policy.document.spec.record.content)
        self._ledger.fired(alert)
        return alert
