"""What follows from the firings of a test's requests: correlations, and notifications."""

from __future__ import annotations

from collections.abc import Iterable

from monitor.policy.alert_facts import AlertFacts
from monitor.policy.correlators import Correlators
from monitor.policy.policy import Policy
from monitor.policy.request_match import mode_under
from monitor.policy.schema.rule import Correlation
from monitor.policy.vocabulary import Mode, Severity
from monitor.policy_tests.notified import ObservedNotification, notifications_of
from monitor.policy_tests.observed import ObservedFiring, ObservedRequest, Verdict
from monitor.policy_tests.sending import Sent


class Follower:
    """The requests of one test, one after the other in order of time.

    Attributes:
        requests: what became of each.
    """

    def __init__(self, policy: Policy) -> None:
        self.requests: list[ObservedRequest] = []
        self._policy = policy
        self._correlators = Correlators()
        self._alerts: list[tuple[list[AlertFacts], int]] = []

    def take(self, sent: Sent, verdict: Verdict) -> None:
        """The next request."""
        spec, now = self._policy.document.spec, sent.time_nanos
        firings = list[ObservedFiring]()
        for firing in verdict.firings:
            facts = _facts(sent, verdict, firing)
            completed = self._correlators.observe(self._policy.name, spec.correlations, facts, now)
            firings += [firing, *(_correlated(one.correlation, firing, one.alert_ids) for one in completed)]
        self.requests.append(ObservedRequest(sent, verdict, tuple(firings)))
        together = [_facts(sent, verdict, firing) for firing in firings if _is_sent(firing, verdict)]
        self._alerts.append((together, now))

    def notifications(self) -> tuple[ObservedNotification, ...] | None:
        """Of all alerts so far; None where the policy asks for none."""
        notify = self._policy.document.spec.notify
        return None if notify is None else tuple(notifications_of(notify, self._alerts))


def in_time(requests: Iterable[Sent]) -> list[Sent]:
    """In the order in which they begin; of one time in that of the file."""
    return sorted(requests, key=lambda sent: sent.time_nanos)


def _is_sent(firing: ObservedFiring, verdict: Verdict) -> bool:
    return mode_under(firing.exception, verdict.situation.mode) >= Mode.ALERT


def _facts(sent: Sent, verdict: Verdict, firing: ObservedFiring) -> AlertFacts:
    request = verdict.situation.request
    return AlertFacts(
        alert_id=f"{sent.number}/{firing.rule}/{firing.at}",
        time_unix_nanos=sent.time_nanos,
        rule=firing.rule,
        severity=firing.severity,
        tenant=request.tenant,
        model=request.models[0] if request.models else "",
        adapter=request.adapter,
        tap=sent.given.request.tap or "",
        generation=str(sent.number),
        exception=firing.exception,
    )


def _correlated(correlation: Correlation, completed_by: ObservedFiring, alert_ids: tuple[str, ...]) -> ObservedFiring:
    """It stands where the firing stands that completed it."""
    return ObservedFiring(
        at=completed_by.at,
        rule=correlation.id,
        severity=Severity[correlation.severity.upper()],
        would_act=correlation.actions,
        correlated=alert_ids,
    )
