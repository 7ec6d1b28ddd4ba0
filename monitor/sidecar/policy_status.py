"""How a policy stands: what is in force, since when and because of whom, and what it has done."""

from __future__ import annotations

from dataclasses import dataclass

from monitor.policy import Mode as PolicyMode
from monitor.policy import Policy
from monitor.sidecar.plan import ServedPolicy
from monitor.sidecar.rollout import Edition
from monitor.sidecar.taps import Taps
from monitor.v1.alerts_pb2 import Mode, ModeSource
from monitor.v1.policies_pb2 import PolicyStatus, RuleStatus


@dataclass(frozen=True)
class PolicyStanding:
    """What takes no time to find out of a policy.

    Attributes:
        mode: in force, the lowest over all taps.
        stale: its `fittedOn` differs from what a tap serves.
        rules: ids of its rules and correlations.
    """

    name: str
    mode: PolicyMode
    stale: bool
    rules: tuple[str, ...]


def policy_standings(edition: Edition, taps: Taps) -> tuple[PolicyStanding, ...]:
    """Of all policies that are loaded. To be called between frames."""
    return tuple(
        PolicyStanding(policy.name, _in_force(policy, edition, taps)[0], _is_stale(policy, taps), _rule_ids(policy))
        for policy in edition.book.policies
    )


def policy_status(policy: Policy, edition: Edition, taps: Taps) -> PolicyStatus:
    """To be called between frames."""
    ledger, document = taps.ledger, policy.document
    mode, source, reason = _in_force(policy, edition, taps)
    metadata = document.metadata
    return PolicyStatus(
        name=policy.name,
        revision=policy.revision,
        sha256=policy.sha256,
        file=policy.file,
        mode=Mode.ValueType(int(policy.mode)),
        effective_mode=Mode.ValueType(int(mode)),
        reason=reason,
        detectors=[detector.id for detector in document.spec.detectors],
        rules=[rule.id for rule in document.spec.rules],
        rows_judged=ledger.rows_judged[policy.name],
        alerts=ledger.alerts[policy.name],
        shadow_alerts=ledger.shadow_alerts[policy.name],
        mode_source=source,
        owner=metadata.owner or "",
        status=metadata.status,
        runbook=metadata.runbook or "",
        rule_status=_rules(policy, taps),
        stale=_is_stale(policy, taps),
        loaded_unix_nanos=edition.loaded.get(policy.name, 0),
        requests_on_older=sum(
            _is_older(policy, request.plan.served.get(policy.name)) for tap in taps for request in tap.judge.live
        ),
    )


def _in_force(policy: Policy, edition: Edition, taps: Taps) -> tuple[PolicyMode, ModeSource.ValueType, str]:
    """The lowest mode over all taps that serve it, who set it, and what keeps it other or away."""
    mode, source = edition.mode(policy)
    reasons = []
    cause = edition.set_by.get(policy.name)
    if cause is not None:
        reasons.append(f"set by {cause.actor}: {cause.reason}")
    elif source == ModeSource.MODE_SOURCE_LOAD:
        reasons.append("set by --mode at the start of the sidecar")
    for tap_id, served in _served(policy, taps):
        if served.reason:
            if served.mode < mode:
                mode, source = served.mode, served.mode_source
            reasons.append(f"tap {tap_id}: {served.reason}")
    for tap in taps:
        if policy.name in tap.plan.unserved:
            reasons.append(f"tap {tap.hello.tap_id} cannot serve it: {tap.plan.unserved[policy.name]}")
    return mode, source, "; ".join(reasons)


def _served(policy: Policy, taps: Taps) -> list[tuple[str, ServedPolicy]]:
    found = [(tap.hello.tap_id, tap.plan.served.get(policy.name)) for tap in taps]
    return [(tap_id, served) for tap_id, served in found if served is not None]


def _rules(policy: Policy, taps: Taps) -> list[RuleStatus]:
    """Its rules in their order, then what else was counted under its name: of no rule, or of one that is gone."""
    counted = [rule for name, rule in taps.ledger.rules if name == policy.name]
    found = []
    for rule in dict.fromkeys([*_rule_ids(policy), *sorted(counted)]):
        counts = taps.ledger.rules.get((policy.name, rule))
        if counts is None:
            found.append(RuleStatus(rule=rule))
        else:
            found.append(
                RuleStatus(
                    rule=rule,
                    alerts=counts.alerts,
                    would_alert=counts.would_alert,
                    excepted=counts.excepted,
                    late=counts.late,
                )
            )
    return found


def _rule_ids(policy: Policy) -> tuple[str, ...]:
    spec = policy.document.spec
    return (*(rule.id for rule in spec.rules), *(correlation.id for correlation in spec.correlations))


def _is_stale(policy: Policy, taps: Taps) -> bool:
    return any(served.stale for _, served in _served(policy, taps))


def _is_older(policy: Policy, served: ServedPolicy | None) -> bool:
    return served is not None and served.policy.sha256 != policy.sha256
