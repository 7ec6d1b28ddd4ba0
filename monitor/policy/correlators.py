"""The correlations of policies over alerts of their rules: which alert counts for which, and what is completed."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Sequence
from typing import Final, NamedTuple

from monitor.policy.alert_facts import AlertFacts
from monitor.policy.correlate import Correlator
from monitor.policy.schema.rule import Correlation

#: Correlations whose state is kept. A reload that changes one leaves the state of its older text behind.
MOST_CORRELATIONS: Final = 1024


class Completed(NamedTuple):
    """A correlation that fires, and the ids of the alerts that it is made of, as `Correlator.observe` gives them."""

    correlation: Correlation
    alert_ids: tuple[str, ...]


class Correlators:
    """The state of every correlation that something fired for, over changes of a policy that leave its text.

    Attributes:
        evicted: by policy, groups that made room for others while their firings still counted.
    """

    def __init__(self, *, most: int = MOST_CORRELATIONS) -> None:
        self.evicted: Counter[str] = Counter()
        self._most = most
        self._correlators: OrderedDict[tuple[str, Correlation], Correlator] = OrderedDict()

    def __len__(self) -> int:
        """Correlations whose state is kept."""
        return len(self._correlators)

    def observe(
        self, policy: str, correlations: Sequence[Correlation], alert: AlertFacts, now_nanos: int
    ) -> list[Completed]:
        """Takes an alert of a rule; what an exception holds back completes nothing.

        Args:
            policy: name of the policy that the alert is of.
            correlations: of that policy.
            alert: of one of its rules.
            now_nanos: see `Correlator.observe`.

        Returns:
            What it completes, in the order of the policy.
        """
        if alert.exception:
            return []
        named = [correlation for correlation in correlations if alert.rule in correlation.rules]
        found = [Completed(one, self._observe(policy, one, alert, now_nanos)) for one in named]
        return [completed for completed in found if completed.alert_ids]

    def _observe(self, policy: str, correlation: Correlation, alert: AlertFacts, now_nanos: int) -> tuple[str, ...]:
        key = policy, correlation
        correlator = self._correlators.get(key)
        if correlator is None:
            correlator = self._correlators[key] = Correlator(correlation)
            self._drop_old(now_nanos)
        self._correlators.move_to_end(key)
        before = correlator.evicted
        alert_ids = correlator.observe(alert, now_nanos)
        self._count(policy, correlator.evicted - before)
        return alert_ids

    def _drop_old(self, now_nanos: int) -> None:
        """Forgets correlations of which nothing counts any more, which changes nothing, then the least recent."""
        for key, correlator in [*self._correlators.items()][:-1]:
            correlator.forget(now_nanos)
            if not len(correlator):
                del self._correlators[key]
        while len(self._correlators) > self._most:
            (policy, _), correlator = self._correlators.popitem(last=False)
            self._count(policy, len(correlator))

    def _count(self, policy: str, groups: int) -> None:
        if groups:
            self.evicted[policy] += groups
