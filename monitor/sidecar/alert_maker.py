"""Makes, counts and files the alerts of one tap."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from monitor.policy import DROP_RULE, TIMEOUT_RULE, UNSEEN_RULE, CompiledRule, Mode, Severity
from monitor.policy.vocabulary import RESERVED_SEVERITIES
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
        self.tap_id = tap_id
        self._plan = plan
        self._reader = reader
        self._ledger = ledger
        self._problems = problems
        self._clock = clock

    def now(self) -> int:
        """The wall clock in nanoseconds since the Unix epoch."""
        return self._clock()

    def tells(self, request: LiveRequest, policy: str) -> bool:
        """Whether alerts of a policy are made of a request: it judges the request, and was not switched off since."""
        return policy in request.judging.policies and not self.is_off(policy)

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
        late: bool = False,
    ) -> Alert:
        """A rule began to fire; `restored`: on positions whose state came out of the store of prefixes; `late`: after
        its deadline."""
        exception = request.judging.exceptions.get((rule.policy, rule.id), "")
        particulars = Alert(restored=restored, late=late, exception=exception, readings=readings)
        return self._make(request, position, rule.policy, rule.id, rule.severity, forward_end_unix_nanos, particulars)

    def unseen(
        self, request: LiveRequest, position: int, count: int, policy: str, forward_end_unix_nanos: int
    ) -> Alert:
        """`count` positions from `position` on stay unseen, and the policy wants to be told."""
        particulars = Alert(unseen_positions=count)
        return self._built_in(request, position, policy, UNSEEN_RULE, forward_end_unix_nanos, particulars)

    def dropped(self, request: LiveRequest, position: int, count: int, policy: str) -> Alert:
        """`count` positions were dropped, the first at `position`: more than the policy bears."""
        return self._built_in(request, position, policy, DROP_RULE, 0, Alert(dropped_positions=count))

    def late(self, request: LiveRequest, position: int, policy: str, forward_end_unix_nanos: int) -> Alert:
        """Tokens from `position` on were judged after the deadline of one of the policy's rules."""
        particulars = Alert(late=True)
        return self._built_in(request, position, policy, TIMEOUT_RULE, forward_end_unix_nanos, particulars)

    def failed(self, request: LiveRequest, position: int, policy: str, rule_id: str) -> None:
        """Called while an exception is handled: tells that an alert is lost because of it."""
        told = f"{policy}/{rule_id} fired at position {position}, but its alert could not be made"
        _log.exception("tap %s: request %s: %s", self.tap_id, request.identity.request_id, told)
        self._problems.note("alert failed", told)
        request.notes.append(told)

    def _built_in(  # noqa: PLR0917 - as `_make`
        self,
        request: LiveRequest,
        position: int,
        policy: str,
        rule_id: str,
        forward_end_unix_nanos: int,
        particulars: Alert,
    ) -> Alert:
        severity = RESERVED_SEVERITIES[rule_id]
        return self._make(request, position, policy, rule_id, severity, forward_end_unix_nanos, particulars)

    def _make(  # noqa: PLR0917 - what, where, and why, in the order of a sentence
        self,
        request: LiveRequest,
        position: int,
        policy: str,
        rule_id: str,
        severity: Severity,
        forward_end_unix_nanos: int,
        particulars: Alert,
    ) -> Alert:
        served = self._plan.served[policy]
        alert = build_alert(
            tap_id=self.tap_id,
            request=request,
            position=position,
            rule_id=rule_id,
            severity=severity,
            served=served,
            particulars=particulars,
            reader=self._reader,
            now_unix_nanos=self._clock(),
            forward_end_unix_nanos=forward_end_unix_nanos,
        )
        request.add_alert(alert, served.policy.document.spec.record.content)
        self._ledger.fired(alert)
        return alert
