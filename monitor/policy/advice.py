"""Advice on a policy that may be loaded as it is: what a careful reviewer would ask about."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from monitor.policy.calibration_advice import calibration_advice
from monitor.policy.policy import Policy
from monitor.policy.problem import Problem
from monitor.policy.schema.detector import Aggregate, Detector
from monitor.policy.schema.document import Spec
from monitor.policy.vocabulary import DetectorState, Mode
from monitor.policy.when import State, parse_condition
from monitor.policy.yaml_fields import line_of, shorten


@dataclass(frozen=True)
class Remark:
    """One piece of advice: path of a field, its value, what is to be said about it, and what to do."""

    path: str
    value: str
    rule: str
    remedy: str


def advice(policy: Policy, today: str) -> list[Problem]:
    """What is allowed, but seldom meant.

    Args:
        policy: a policy from `parse_policy`.
        today: the day in UTC, year-month-day.

    Returns:
        Remarks in order of lines, each with line, field, value, rule and remedy as a problem has them.
    """
    kinds: list[Callable[[Policy], Iterator[Remark]]] = [
        _responsibility,
        _mode,
        _fitted_on,
        _detectors,
        _rules,
        lambda one: _expired(one, today),
    ]
    remarks = [remark for kind in kinds for remark in kind(policy)]
    found = [
        Problem(policy.file, line_of(policy.lines, one.path), one.path, shorten(one.value), one.rule, one.remedy)
        for one in remarks
    ]
    return sorted(found, key=lambda problem: problem.line)


def _responsibility(policy: Policy) -> Iterator[Remark]:
    metadata = policy.document.metadata
    if metadata.status == "deprecated" and policy.mode >= Mode.ALERT:
        rule = f"a deprecated policy still alerts (mode {_mode_name(policy)})"
        yield Remark("metadata.status", metadata.status, rule, "put its successor in place, or choose mode shadow")
    if policy.mode >= Mode.ALERT:
        reason = f"mode is {_mode_name(policy)}"
    elif metadata.status in ("stable", "test"):
        reason = f"status is {metadata.status}"
    else:
        return
    if metadata.owner is None:
        yield Remark("metadata.owner", "", f"{reason}, and nobody answers for the policy", "add owner")
    if metadata.runbook is None:
        rule = f"{reason}, and the person on call finds no instructions"
        yield Remark("metadata.runbook", "", rule, "add runbook, a link or a path")


def _mode(policy: Policy) -> Iterator[Remark]:
    # No action of this version intervenes.
    if policy.mode is Mode.ENFORCE:
        yield Remark("spec.mode", "enforce", "no rule has an action that intervenes: it acts as alert", "write alert")


def _fitted_on(policy: Policy) -> Iterator[Remark]:
    spec = policy.document.spec
    needed = {"model": spec.fitted_on.model}
    if any(detector.source.dense_probe is None for detector in spec.detectors):
        needed["sae"] = spec.fitted_on.sae
    missing = [name for name, value in needed.items() if value is None]
    if missing:
        rule = f"without {' and '.join(missing)} nobody notices when the thresholds are used on something else"
        yield Remark("spec.fittedOn", "", rule, f"add {' and '.join(missing)}")


def _detectors(policy: Policy) -> Iterator[Remark]:
    spec = policy.document.spec
    named = _named_states(spec)
    for index, detector in enumerate(spec.detectors):
        path, states = f"spec.detectors[{index}]", named.get(detector.id, frozenset())
        if not states:
            rule = "no rule names this detector: it is computed for every token and decides nothing"
            yield Remark(f"{path}.id", detector.id, rule, "name it in a rule, or remove it")
        yield from _aggregate(f"{path}.aggregate", detector.aggregate)
        yield from _flapping(f"{path}.threshold", detector, states)
        if detector.calibration is not None:
            for name, value, rule, remedy in calibration_advice(detector.calibration):
                yield Remark(f"{path}.calibration.{name}", value, rule, remedy)
        elif states and policy.mode >= Mode.ALERT:
            rule = f"mode is {_mode_name(policy)}, and nothing says how often its thresholds raise false alarms"
            yield Remark(f"{path}.id", detector.id, rule, "measure it with `featurewatch policy calibrate`")


def _aggregate(path: str, aggregate: Aggregate) -> Iterator[Remark]:
    if aggregate.kind == "mean":
        rule = "in a long context a short harmful part is lost in the mean of all tokens"
        yield Remark(f"{path}.kind", "mean", rule, "choose ema or rolling_mean, with then: max")
    if "bos" not in aggregate.skip:
        rule = "the first token's activations are far from all others in every decoder model"
        yield Remark(f"{path}.skip", ", ".join(aggregate.skip) or "[]", rule, "add bos to skip")


def _flapping(path: str, detector: Detector, states: frozenset[DetectorState]) -> Iterator[Remark]:
    """A state with the same bound in both directions comes and goes when the score stays close to it."""
    if detector.aggregate.kind == "max" or detector.aggregate.then is not None:
        return
    threshold = detector.threshold
    clear = threshold.fire if threshold.clear is None else threshold.clear
    warn = threshold.fire if threshold.warn is None else threshold.warn
    at, value = (path, "") if threshold.clear is None else (f"{path}.clear", f"{clear:g}")
    if clear >= threshold.fire and DetectorState.FIRE in states:
        rule = f"fire begins and ends at {clear:g}: a score near it fires again and again"
        yield Remark(at, value, rule, "choose a clear below fire")
    elif clear >= warn and states & {DetectorState.WARN, DetectorState.CLEAR}:
        rule = f"a rule names warn or clear, and warn begins and ends at {warn:g}: a score near it flaps"
        yield Remark(at, value, rule, "choose a clear below warn")


def _rules(policy: Policy) -> Iterator[Remark]:
    for number, rule in enumerate(policy.document.spec.rules):
        if parse_condition(rule.when).holds({}):
            told = "it holds while every detector is clear: the rule fires on every request"
            yield Remark(f"spec.rules[{number}].when", rule.when, told, "join it with and to a state that is seldom")


def _expired(policy: Policy, today: str) -> Iterator[Remark]:
    for number, rule in enumerate(policy.document.spec.rules):
        for index, exception in enumerate(rule.exceptions):
            if exception.expires <= today:
                path = f"spec.rules[{number}].exceptions[{index}].expires"
                told = f"exception {exception.name} no longer holds"
                yield Remark(path, exception.expires, told, f"remove it, or ask {exception.owner} for a new day")


def _named_states(spec: Spec) -> dict[str, frozenset[DetectorState]]:
    """By detector, the states that rules name."""
    named: dict[str, frozenset[DetectorState]] = {}
    for rule in spec.rules:
        for item in parse_condition(rule.when).postfix:
            if isinstance(item, State):
                named[item.detector] = named.get(item.detector, frozenset()) | {item.state}
    return named


def _mode_name(policy: Policy) -> str:
    return policy.mode.name.lower()
