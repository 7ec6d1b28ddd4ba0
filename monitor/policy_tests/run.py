"""Compares what a test expects with what the policy did."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from monitor.policy.policy import Policy
from monitor.policy.vocabulary import DetectorState
from monitor.policy.when import parse_condition
from monitor.policy_tests.observe import Observation, ObservedFiring, Observer
from monitor.policy_tests.parse import PolicyTests
from monitor.policy_tests.schema import Case, ExpectedFiring

# Tokens that a failure shows before and behind the one it is about.
_AROUND = 3


@dataclass(frozen=True)
class Scores:
    """A detector around the token that a failure is about; NaN where nothing was judged.

    Attributes:
        positions: of the tokens shown.
        token_scores, scores, states: of each token its own score, the aggregate and the state behind it.
    """

    detector: str
    warn: float
    fire: float
    clear: float
    positions: tuple[int, ...]
    token_scores: tuple[float, ...]
    scores: tuple[float, ...]
    states: tuple[str, ...]


@dataclass(frozen=True)
class Failure:
    """`line` is that of the expectation in the test file, or of the test where something happened unexpectedly."""

    line: int
    text: str
    at: int
    around: tuple[Scores, ...]


@dataclass(frozen=True)
class CaseResult:
    """`line` is the test's; without failures it passed."""

    name: str
    line: int
    failures: tuple[Failure, ...]
    observation: Observation

    @property
    def passed(self) -> bool:
        return not self.failures


def run_tests(tests: PolicyTests, policy: Policy) -> list[CaseResult]:
    """Runs all tests of a file that has passed `parse.check_against` this policy."""
    observer = Observer(policy)
    results = []
    for index, case in enumerate(tests.cases):
        path = f"tests[{index}]"
        observation = observer.observe(case)
        failures = tuple(_Comparison(tests, path, case, observer, observation).failures())
        results.append(CaseResult(case.name, tests.line(f"{path}.name"), failures, observation))
    return results


@dataclass(frozen=True)
class _Comparison:
    tests: PolicyTests
    path: str
    case: Case
    observer: Observer
    seen: Observation

    def failures(self) -> Iterator[Failure]:
        expected = {f"{self.path}.expect[{index}]": firing for index, firing in enumerate(self.case.expect)}
        left = list(self.seen.firings)
        missed: dict[str, ExpectedFiring] = {}
        for path, firing in expected.items():
            match = next((one for one in left if (one.rule, one.at) == (firing.rule, firing.at)), None)
            if match is None:
                missed[path] = firing
                continue
            left.remove(match)
            yield from self._details(path, firing, match)
        for path, firing in missed.items():
            instead = next((one for one in left if one.rule == firing.rule), None)
            if instead is not None:
                left.remove(instead)
            yield self._missed(path, firing, instead)
        for one in left:
            yield self._failure(
                self.path, f"{one.rule} fired at token {one.at}, which is not expected", one.at, one.rule
            )
        yield from self._states()

    def _details(self, path: str, expected: ExpectedFiring, seen: ObservedFiring) -> Iterator[Failure]:
        here = f"{expected.rule} fired at token {expected.at} as expected, but"
        mode, reason = self.seen.situation.mode.name.lower(), self.seen.situation.reason
        if expected.mode is not None and expected.mode != mode:
            why = f" ({reason})" if reason else ""
            text = f"{here} in mode {mode}{why}, expected {expected.mode}"
            yield self._failure(f"{path}.mode", text, expected.at, expected.rule)
        if (expected.exception or "") != seen.exception:
            told = f"exception {seen.exception} holds" if seen.exception else "no exception holds"
            text = f"{here} {told}, expected {expected.exception or 'none'}"
            yield self._failure(f"{path}.exception", text, expected.at, expected.rule)
        if expected.would_act is not None and expected.would_act != seen.would_act:
            text = f"{here} would act with {_list(seen.would_act)}, expected {_list(expected.would_act)}"
            yield self._failure(f"{path}.wouldAct", text, expected.at, expected.rule)

    def _missed(self, path: str, expected: ExpectedFiring, instead: ObservedFiring | None) -> Failure:
        text = f"expected {expected.rule} to fire at token {expected.at}; "
        if not self.seen.situation.judged:
            text += self._not_judged
        elif instead is not None:
            text += f"it fired at token {instead.at}"
        else:
            text += "it did not fire"
        return self._failure(f"{path}.at", text, expected.at, expected.rule)

    def _states(self) -> Iterator[Failure]:
        order = list(self.observer.detectors)
        for index, expected in enumerate(self.case.expect_states):
            path = f"{self.path}.expectStates[{index}].state"
            text = f"expected {expected.detector} in {expected.state} after token {expected.at}"
            if self.seen.judgement is None:
                yield Failure(self.tests.line(path), f"{text}; {self._not_judged}", expected.at, ())
                continue
            code = self.seen.judgement.states_nd[expected.at, order.index(expected.detector)]
            state = DetectorState(int(code)).name.lower()
            if state != expected.state:
                around = self._around(expected.at, [expected.detector])
                yield Failure(self.tests.line(path), f"{text}, it is in {state}", expected.at, around)

    @property
    def _not_judged(self) -> str:
        return f"the policy does not judge this request: {self.seen.situation.reason}"

    def _failure(self, path: str, text: str, at: int, rule: str) -> Failure:
        rules = self.observer.policy.document.spec.rules
        when = next(one.when for one in rules if one.id == rule)
        return Failure(self.tests.line(path), text, at, self._around(at, parse_condition(when).detectors))

    def _around(self, at: int, detectors: Sequence[str]) -> tuple[Scores, ...]:
        judgement = self.seen.judgement
        if judgement is None:
            return ()
        first, until = max(at - _AROUND, 0), min(at + _AROUND + 1, len(judgement.states_nd))
        order, shown = list(self.observer.detectors), []
        for name in detectors:
            d, detector = order.index(name), self.observer.detectors[name]
            states = judgement.states_nd[first:until, d]
            shown.append(
                Scores(
                    name,
                    detector.warn,
                    detector.fire,
                    detector.clear,
                    tuple(range(first, until)),
                    tuple(judgement.token_scores_nd[first:until, d].tolist()),
                    tuple(judgement.scores_nd[first:until, d].tolist()),
                    tuple(DetectorState(code).name.lower() for code in states.tolist()),
                )
            )
        return tuple(shown)


def _list(actions: Sequence[str]) -> str:
    return f"[{', '.join(actions)}]"
