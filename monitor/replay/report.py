"""What a policy would have done on recorded generations, and how that differs from what was done."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from monitor.policy import Policy
from monitor.replay.correlated import CorrelatedReplay, recorded_correlations
from monitor.replay.recorded import Recorded
from monitor.replay.rejudge import NotReplayableError, Rejudged, rejudge
from monitor.replay.same_source import Ingredients


@dataclass
class RuleOutcome:
    """Ids of generations; one counts once, however often the rule fires on it.

    Attributes:
        severity: as the policy says; of a rule that it no longer has as recorded: empty.
        fired: on which it would have fired.
        excepted: on which it would have fired under an exception only.
        recorded: on which the rule of the recorded policy fired, without an exception.
    """

    severity: str
    fired: list[str] = field(default_factory=list)
    excepted: list[str] = field(default_factory=list)
    recorded: list[str] = field(default_factory=list)

    @property
    def newly(self) -> list[str]:
        return _without(self.fired, self.recorded)

    @property
    def no_longer(self) -> list[str]:
        return _without(self.recorded, self.fired)


@dataclass
class ReplayReport:
    """Of one policy.

    Attributes:
        generations: recorded ones that were looked at.
        not_for: those that the policy does not judge, by why: model, tenant or sample.
        not_replayed: those that could not be replayed, by why.
        replayed: the others.
        shadowed: of these, those on which `fittedOn` would have kept the policy in shadow.
        rules: by rule id; also rules that only the recorded policy had.
        correlations: likewise, by their ids; what counts for them are firings on replayed generations.
        unknown_correlations: why others cannot be replayed, by their ids.
        flagged: replayed generations on which a rule would have fired without an exception.
        was_flagged: those on which the recorded policy of this name did.
    """

    policy: Policy
    generations: int = 0
    not_for: dict[str, list[str]] = field(default_factory=dict)
    not_replayed: dict[str, list[str]] = field(default_factory=dict)
    replayed: list[str] = field(default_factory=list)
    shadowed: list[str] = field(default_factory=list)
    rules: dict[str, RuleOutcome] = field(default_factory=dict)
    correlations: dict[str, RuleOutcome] = field(default_factory=dict)
    unknown_correlations: dict[str, str] = field(default_factory=dict)
    flagged: list[str] = field(default_factory=list)
    was_flagged: list[str] = field(default_factory=list)

    @property
    def newly_flagged(self) -> list[str]:
        return _without(self.flagged, self.was_flagged)

    @property
    def no_longer_flagged(self) -> list[str]:
        return _without(self.was_flagged, self.flagged)

    def severities(self) -> dict[str, list[str]]:
        """Generations by the severity of the rules and correlations that would have fired on them."""
        found: dict[str, dict[str, None]] = {}
        for outcome in (*self.rules.values(), *self.correlations.values()):
            if outcome.fired:
                found.setdefault(outcome.severity, {}).update(dict.fromkeys(outcome.fired))
        return {severity: list(ids) for severity, ids in found.items()}


def replay(policy: Policy, records: Iterable[Recorded], made_of: Mapping[str, Ingredients]) -> ReplayReport:
    """Judges every record again with one policy.

    Args:
        policy: in any mode.
        records: in any order; each is read once and not kept.
        made_of: see `rejudge`.
    """
    report = ReplayReport(policy)
    report.rules = {rule.id: RuleOutcome(rule.severity) for rule in policy.document.spec.rules}
    correlated = CorrelatedReplay(policy)
    report.unknown_correlations = correlated.unknown
    for one in policy.document.spec.correlations:
        if one.id not in correlated.unknown:
            report.correlations[one.id] = RuleOutcome(one.severity)
    for recorded in records:
        report.generations += 1
        try:
            again = rejudge(policy, recorded, made_of)
        except NotReplayableError as error:
            report.not_replayed.setdefault(error.rule, []).append(recorded.id)
            continue
        if again.judgement is None:
            report.not_for.setdefault(again.reason, []).append(recorded.id)
            continue
        _count(report, recorded, again)
        correlated.add(recorded, again.firings)
    for correlation, ids in correlated.completed().items():
        report.correlations[correlation].fired = ids
    return report


def recorded_firings(recorded: Recorded, policy: str) -> list[tuple[str, int, str]]:
    """(rule, position, exception) of the alerts of a policy's own rules; alerts of drops, deadlines and the like and of
    correlations are not made of token scores."""
    was = recorded.policies.get(policy)
    rules = {rule.id for rule in was.document.spec.rules} if was else set()
    alerts = [alert for alert in recorded.record.alerts if alert.policy == policy and alert.rule in rules]
    return [(alert.rule, alert.position, alert.exception) for alert in alerts]


def _without(ids: Iterable[str], others: Iterable[str]) -> list[str]:
    known = set(others)
    return [one for one in ids if one not in known]


def _count(report: ReplayReport, recorded: Recorded, again: Rejudged) -> None:
    report.replayed.append(recorded.id)
    if again.reason:
        report.shadowed.append(recorded.id)
    fired = {firing.rule.id for firing in again.firings if not firing.exception}
    excepted = {firing.rule.id for firing in again.firings} - fired
    did = {rule for rule, _, exception in recorded_firings(recorded, report.policy.name) if not exception}
    for rule in sorted(did - report.rules.keys()):
        report.rules[rule] = RuleOutcome("")
    for rule, outcome in report.rules.items():
        for ids, which in ((outcome.fired, fired), (outcome.excepted, excepted), (outcome.recorded, did)):
            if rule in which:
                ids.append(recorded.id)
    for correlation in sorted(recorded_correlations(recorded, report.policy.name) - report.unknown_correlations.keys()):
        report.correlations.setdefault(correlation, RuleOutcome("")).recorded.append(recorded.id)
    if fired:
        report.flagged.append(recorded.id)
    if did:
        report.was_flagged.append(recorded.id)
