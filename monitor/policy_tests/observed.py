"""What a policy made of a test."""

from __future__ import annotations

from dataclasses import dataclass

from monitor.policy.engine import Judgement
from monitor.policy.vocabulary import Severity
from monitor.policy_tests.notified import ObservedNotification
from monitor.policy_tests.sending import Sent
from monitor.policy_tests.situation import Situation


@dataclass(frozen=True)
class ObservedFiring:
    """A rule began to fire, a correlation was completed, or a built-in rule told something.

    Attributes:
        would_act: what is done in mode alert or higher; empty where an exception holds.
        exception: name of the one that holds, empty when none does.
        late: the verdict came after the rule's deadline.
        correlated: of a correlation the ids of the alerts that it names, ``<request>/<rule>/<position>``.
    """

    at: int
    rule: str
    severity: Severity
    would_act: tuple[str, ...] = ("alert",)
    exception: str = ""
    late: bool = False
    correlated: tuple[str, ...] = ()


@dataclass(frozen=True)
class Verdict:
    """Of one request alone.

    Attributes:
        judgement: rows are tokens, columns the policy's detectors in their order; None where it does not judge.
        firings: in the order in which the sidecar tells them: what was not seen, rules in order of tokens, what was
            late, what was dropped.
        overdue: rules whose deadline was over when tokens were judged.
    """

    situation: Situation
    judgement: Judgement | None
    firings: tuple[ObservedFiring, ...]
    overdue: frozenset[str] = frozenset()


@dataclass(frozen=True)
class ObservedRequest:
    """`firings`: those of the verdict, each with the correlations that it completes behind it."""

    sent: Sent
    verdict: Verdict
    firings: tuple[ObservedFiring, ...]


@dataclass(frozen=True)
class Observation:
    """Of one test.

    Attributes:
        requests: in the order in which the test is written.
        notifications: in order of time; None where the policy has no `notify` or the test does not look at them.
    """

    requests: tuple[ObservedRequest, ...]
    notifications: tuple[ObservedNotification, ...] | None
