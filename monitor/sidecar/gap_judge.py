"""Settles positions that came without activations: restored where their verdict is known, else dropped or unseen."""

from __future__ import annotations

import logging

from monitor.audit import gap_reason_text
from monitor.policy import DROP_RULE, PolicyEngine
from monitor.policy.blindness import is_too_much, tells_unseen
from monitor.sidecar.alert_maker import AlertMaker
from monitor.sidecar.plan import TapPlan
from monitor.sidecar.prefix.book import PrefixBook
from monitor.sidecar.prefix.states import PrefixFiring, PrefixState, firings_in_order
from monitor.sidecar.problem_log import ProblemLog
from monitor.sidecar.request import LiveRequest
from monitor.sidecar.tokenizer import TokenReader
from monitor.v1.alerts_pb2 import Alert, DetectorReading
from monitor.v1.tap_pb2 import GapReason

_log = logging.getLogger(__name__)


class GapJudge:
    """Gives requests the detector state of prefixes that the engine took from its cache, and tells of blindness."""

    def __init__(
        self, plan: TapPlan, engine: PolicyEngine, reader: TokenReader, prefixes: PrefixBook, alerts: AlertMaker
    ) -> None:
        self._rules = plan.policies.rules
        self._tell_unseen = [name for name, served in plan.served.items() if tells_unseen(served.policy)]
        self._on_drop = {
            name: on_drop
            for name, served in plan.served.items()
            if (on_drop := served.policy.document.spec.on_drop) is not None
        }
        self._engine = engine
        self._reader = reader
        self._prefixes = prefixes
        self._alerts = alerts
        # Not among the tap's problems: it is what became of requests, and counted there.
        self._drops = ProblemLog(_log, f"tap {alerts.tap_id}")

    def settle(
        self, request: LiveRequest, count: int, reason: GapReason.ValueType, forward_end_unix_nanos: int
    ) -> list[Alert]:
        """Settles the next `count` positions of a request; returns what fires on them."""
        coverage, alerts = request.coverage, list[Alert]()
        until = coverage.next_position + count
        if count and reason == GapReason.GAP_REASON_PREFIX_CACHE:
            found = self._prefixes.find(request, until)
            if found is not None:
                alerts += self._restore(request, *found, forward_end_unix_nanos)
        first, left = coverage.next_position, until - coverage.next_position
        text = gap_reason_text(reason)
        coverage.miss(left, text)
        if left and text.startswith("unseen:") and not request.told_unseen:
            request.told_unseen = True
            alerts += [
                self._alerts.unseen(request, first, left, policy, forward_end_unix_nanos)
                for policy in self._tell_unseen
                if self._alerts.tells(request, policy)
            ]
        return alerts

    def ended(self, request: LiveRequest) -> list[Alert]:
        """Tells of a request that has ended, its coverage settled, when too much of it was dropped."""
        coverage, alerts = request.coverage, list[Alert]()
        for policy, on_drop in self._on_drop.items():
            too_much = is_too_much(on_drop, coverage.dropped, coverage.next_position)
            if not too_much or not self._alerts.tells(request, policy):
                continue
            if "log" in on_drop.actions:
                told = f"{coverage.dropped} of {coverage.next_position} positions of {request.identity.request_id}"
                self._drops.note(f"more was dropped than policy {policy} bears", told)
            if "alert" in on_drop.actions:
                first = coverage.first_dropped()
                try:
                    alerts.append(self._alerts.dropped(request, first, coverage.dropped, policy))
                except Exception:  # noqa: BLE001
                    # The request must be recorded whatever is wrong with its alert.
                    self._alerts.failed(request, first, policy, DROP_RULE)
        return alerts

    def _restore(self, request: LiveRequest, end: int, state: PrefixState, forward_end_unix_nanos: int) -> list[Alert]:
        """The request stands at `end` as after a cold run, and what fired there and was not told yet is told now."""
        self._engine.restore(request.slot, state.snapshot)
        request.coverage.restore(end - request.coverage.next_position)
        # Now, while the tokens are at hand: pages of the history may be given up before the next rows come.
        classes_known = request.pass_prompt(self._reader, end)
        self._prefixes.restored(request, state)
        if not classes_known:
            self._prefixes.spoil(request)
        told = {(alert.policy, alert.rule, alert.position) for alert in request.alerts}
        alerts = []
        for firing in firings_in_order(state.last_firing):
            rule = self._rules[firing.rule]
            if (rule.policy, rule.id, firing.position) in told or not self._alerts.tells(request, rule.policy):
                continue
            try:
                alerts.append(
                    self._alerts.fired(
                        request, firing.position, rule, _readings(firing), forward_end_unix_nanos, restored=True
                    )
                )
            except Exception:  # noqa: BLE001
                # The other alerts must go out whatever is wrong with this one.
                self._alerts.failed(request, firing.position, rule.policy, rule.id)
        return alerts


def _readings(firing: PrefixFiring) -> list[DetectorReading]:
    return [DetectorReading.FromString(reading) for reading in firing.readings]
