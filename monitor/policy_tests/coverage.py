"""What of a policy its tests have shown at work.

Per rule: it fired; it stayed silent in a test that was judged; each state in `when` decided while true and while
false (see `branches`); where `for` is longer than a token, the condition held too shortly. Per detector: warn, fire,
and clear after fire, as far as it can. Each exception. Where the policy says so, a model, tenant or id that it is not
for and a serving configuration other than `fittedOn`. And what `coverage_alerts` adds.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from monitor.policy.engine import Judgement
from monitor.policy.policy import Policy
from monitor.policy.schema.detector import Detector
from monitor.policy.schema.rule import Rule
from monitor.policy.truth import literals
from monitor.policy.vocabulary import DetectorState
from monitor.policy.when import Condition, parse_condition
from monitor.policy.yaml_fields import line_of
from monitor.policy_tests.branches import States, can_decide, decided, value_of
from monitor.policy_tests.coverage_alerts import shown_of_alerts
from monitor.policy_tests.observed import Observation


@dataclass(frozen=True)
class CoverageItem:
    """One thing that a test can show; `line` is that of the field in the policy file."""

    line: int
    field: str
    what: str
    covered: bool


def coverage_of(policy: Policy, seen: Sequence[Observation]) -> list[CoverageItem]:
    """In order of lines; `seen` are all tests of the policy, of whatever files."""
    found = _Coverage(policy, seen)
    items = [*found.serving()]
    for index, detector in enumerate(policy.document.spec.detectors):
        items += found.detector(f"spec.detectors[{index}]", index, detector)
    for index, rule in enumerate(policy.document.spec.rules):
        items += found.rule(f"spec.rules[{index}]", rule)
    items += [found.item(path, what, covered=covered) for path, what, covered in shown_of_alerts(policy, seen)]
    return sorted(items, key=lambda item: item.line)


class _Coverage:
    def __init__(self, policy: Policy, seen: Sequence[Observation]) -> None:
        self._policy = policy
        self._seen = [request for one in seen for request in one.requests]
        # Requests that differ in their times only share one.
        verdicts = {id(one.verdict): one.verdict for one in self._seen}.values()
        self._judgements = [one.judgement for one in verdicts if one.judgement is not None]
        self._stands = [one.situation for one in verdicts]
        self._order = [detector.id for detector in policy.document.spec.detectors]

    def serving(self) -> Iterator[CoverageItem]:
        spec = self._policy.document.spec
        if spec.fitted_on.model_dump(exclude_none=True, exclude={"sae", "hook"}):
            stale = any(one.stale and one.judged for one in self._stands)
            yield self.item("spec.fittedOn", "a serving configuration that differs", covered=stale)
        if spec.match.models != ("*",):
            other = any(one.no_model for one in self._stands)
            yield self.item("spec.match.models", "a model that it is not for", covered=other)
        if spec.match.tenants != ("*",):
            other = any(one.no_tenant for one in self._stands)
            yield self.item("spec.match.tenants", "a tenant that it is not for", covered=other)
        if spec.match.sample < 1:
            other = any(one.no_sample for one in self._stands)
            yield self.item("spec.match.sample", "a request that is not in the sample", covered=other)

    def detector(self, path: str, d: int, detector: Detector) -> Iterator[CoverageItem]:
        columns = [judgement.states_nd[:, d] for judgement in self._judgements]
        threshold = detector.threshold
        if threshold.warn is not None and threshold.warn < threshold.fire:
            reached = any((column == DetectorState.WARN).any() for column in columns)
            yield self.item(f"{path}.threshold.warn", f"detector {detector.id} in warn", covered=reached)
        reached = any((column == DetectorState.FIRE).any() for column in columns)
        yield self.item(f"{path}.threshold.fire", f"detector {detector.id} in fire", covered=reached)
        if detector.aggregate.kind != "max" and detector.aggregate.then is None:
            cleared = any(_cleared(column) for column in columns)
            yield self.item(f"{path}.threshold", f"detector {detector.id} clear after fire", covered=cleared)

    def rule(self, path: str, rule: Rule) -> Iterator[CoverageItem]:
        fired = [{firing.rule for firing in one.firings} for one in self._seen if one.verdict.situation.judged]
        yield self.item(f"{path}.id", f"rule {rule.id} fires", covered=any(rule.id in one for one in fired))
        yield self.item(f"{path}.id", f"rule {rule.id} stays silent", covered=any(rule.id not in one for one in fired))
        condition = parse_condition(rule.when)
        shown = decided(condition, self._situations(condition))
        possible = can_decide(condition)
        for number, literal in enumerate(literals(condition)):
            name = f"{literal.detector}.{literal.state.name.lower()}"
            for value in (True, False):
                if (number, value) in possible:
                    text = f"rule {rule.id}: {name} {'true' if value else 'false'} where it decides"
                    yield self.item(f"{path}.when", text, covered=(number, value) in shown)
        if rule.hold_tokens > 1:
            short = any(self._held_shortly(condition, rule, judgement) for judgement in self._judgements)
            text = f"rule {rule.id}: its condition holds for fewer than {rule.hold}"
            yield self.item(f"{path}.for", text, covered=short)
        used = {(firing.rule, firing.exception) for one in self._seen for firing in one.firings}
        for index, exception in enumerate(rule.exceptions):
            text = f"rule {rule.id}: exception {exception.name} holds"
            yield self.item(f"{path}.exceptions[{index}].name", text, covered=(rule.id, exception.name) in used)

    def _situations(self, condition: Condition) -> Iterator[States]:
        """The different states of a condition's detectors after tokens that one of them judged."""
        columns = [self._order.index(name) for name in condition.detectors]
        parts = [judgement.states_nd[_judged(judgement, columns)][:, columns] for judgement in self._judgements]
        if parts:
            for row in np.unique(np.concatenate(parts), axis=0).tolist():
                yield {name: DetectorState(code) for name, code in zip(condition.detectors, row, strict=True)}

    def _held_shortly(self, condition: Condition, rule: Rule, judgement: Judgement) -> bool:
        columns = [self._order.index(name) for name in condition.detectors]
        held = 0
        for row, judged in zip(judgement.states_nd[:, columns].tolist(), _judged(judgement, columns), strict=True):
            states = {name: DetectorState(code) for name, code in zip(condition.detectors, row, strict=True)}
            if value_of(condition, states):
                held += bool(judged)
                continue
            if 0 < held < rule.hold_tokens:
                return True
            held = 0
        return 0 < held < rule.hold_tokens

    def item(self, path: str, what: str, *, covered: bool) -> CoverageItem:
        return CoverageItem(line_of(self._policy.lines, path), path, what, covered)


def _judged(judgement: Judgement, columns: Sequence[int]) -> npt.NDArray[np.bool_]:
    """bool [p]: one of the detectors judged the token."""
    return np.asarray(~np.isnan(judgement.token_scores_nd[:, columns]).all(axis=1))


def _cleared(states_p: npt.NDArray[np.int8]) -> bool:
    fired = np.flatnonzero(states_p == DetectorState.FIRE)
    return fired.size > 0 and bool((states_p[fired[0] :] == DetectorState.CLEAR).any())
