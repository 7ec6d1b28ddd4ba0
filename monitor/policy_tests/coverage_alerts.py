"""What tests have shown of a policy's alerts beyond its rules: correlations, built-in rules, notifications."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from monitor.policy.built_in_rules import built_in_rules
from monitor.policy.policy import Policy
from monitor.policy.schema.rule import Correlation
from monitor.policy.vocabulary import DROP_RULE, TIMEOUT_RULE, UNSEEN_RULE
from monitor.policy_tests.observed import Observation

#: (path of the field, what is to be shown, whether it was)
Shown = tuple[str, str, bool]


def shown_of_alerts(policy: Policy, seen: Sequence[Observation]) -> Iterator[Shown]:
    """Only of what the policy states."""
    spec, built_in = policy.document.spec, built_in_rules(policy)
    for index, correlation in enumerate(spec.correlations):
        yield from _correlation(f"spec.correlations[{index}]", correlation, seen)
    firings = [firing.rule for one in seen for request in one.requests for firing in request.firings]
    for rule, path in ((UNSEEN_RULE, "spec.onUnseen"), (DROP_RULE, "spec.onDrop")):
        if rule in built_in:
            yield path, f"rule {rule} fires", rule in firings
    for index, one in enumerate(spec.rules):
        if one.on_timeout == "alert":
            yield f"spec.rules[{index}].onTimeout", f"rule {one.id}: a verdict after its deadline", _late(one.id, seen)
    if spec.notify is not None:
        yield "spec.notify", "a notification is sent", any(one.notifications for one in seen)


def _correlation(path: str, correlation: Correlation, seen: Sequence[Observation]) -> Iterator[Shown]:
    completed = short = False
    for one in seen:
        firings = [firing for request in one.requests for firing in request.firings]
        fires = any(firing.rule == correlation.id for firing in firings)
        completed |= fires
        short |= not fires and any(firing.rule in correlation.rules and not firing.exception for firing in firings)
    yield f"{path}.id", f"correlation {correlation.id} fires", completed
    yield f"{path}.id", f"correlation {correlation.id} stays silent although a rule of it fires", short


def _late(rule: str, seen: Sequence[Observation]) -> bool:
    """A request was told of on which this rule's deadline was over."""
    return any(
        rule in request.verdict.overdue and any(firing.rule == TIMEOUT_RULE for firing in request.firings)
        for one in seen
        for request in one.requests
    )
