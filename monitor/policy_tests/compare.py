"""Compares what a test expects of one request with what the policy did."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from monitor.policy.vocabulary import DetectorState
from monitor.policy.when import parse_condition
from monitor.policy_tests.expectations import ExpectedFiring
from monitor.policy_tests.failure import Failure, Scores
from monitor.policy_tests.observe import Observer
from monitor.policy_tests.observed import ObservedFiring, ObservedRequest
from monitor.policy_tests.parse import PolicyTests
from monitor.policy_tests.schema import Case
from monitor.policy_tests.sending import is_meant

# Tokens that a failure shows before and behind the one it is about.
_AROUND = 3


@dataclass(frozen=True)
class Comparison:
    """Of one request; `path` is the test's."""

    tests: PolicyTests
    path: str
    case: Case
    observer: Observer
    seen: ObservedRequest

    def failures(self) -> Iterator[Failure]:
        """In the order of the expectations, then what was not expected, then states."""
        left = list(self.seen.firings)
        missed: dict[str, ExpectedFiring] = {}
        for index, firing in enumerate(self.case.expect):
            if not is_meant(self.seen.sent, firing.request):
                continue
            path = f"{self.path}.expect[{index}]"
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
                self._own_path, f"{one.rule} fired at token {one.at}, which is not expected", one.at, one.rule
            )
        yield from self._states()

    @property
    def _own_path(self) -> str:
        """Of the request."""
        entry = self.seen.sent.entry
        return self.path if entry < 0 else f"{self.path}.requests[{entry}]"

    def _details(self, path: str, expected: ExpectedFiring, seen: ObservedFiring) -> Iterator[Failure]:
        here = f"{expected.rule} fired at token {expected.at} as expected, but"
        situation = self.seen.verdict.situation
        mode, reason = situation.mode.name.lower(), situation.reason
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
        if expected.late is not None and expected.late != seen.late:
            text = f"{here} the verdict came {_late(seen.late)}, expected {_late(expected.late)}"
            yield self._failure(f"{path}.late", text, expected.at, expected.rule)
        if expected.correlated is not None and expected.correlated != len(seen.correlated):
            text = f"{here} it is made of {len(seen.correlated)} alerts, expected {expected.correlated}"
            yield self._failure(f"{path}.correlated", text, expected.at, expected.rule)

    def _missed(self, path: str, expected: ExpectedFiring, instead: ObservedFiring | None) -> Failure:
        text = f"expected {expected.rule} to fire at token {expected.at}; "
        if not self.seen.verdict.situation.judged:
            text += self._not_judged
        elif instead is not None:
            text += f"it fired at token {instead.at}"
        else:
            text += "it did not fire"
        return self._failure(f"{path}.at", text, expected.at, expected.rule)

    def _states(self) -> Iterator[Failure]:
        order, judgement = list(self.observer.detectors), self.seen.verdict.judgement
        for index, expected in enumerate(self.case.expect_states):
            if not is_meant(self.seen.sent, expected.request):
                continue
            path = f"{self.path}.expectStates[{index}].state"
            text = f"expected {expected.detector} in {expected.state} after token {expected.at}"
            if judgement is None:
                yield Failure(self.tests.line(path), f"{text}; {self._not_judged}", expected.at, ())
                continue
            code = judgement.states_nd[expected.at, order.index(expected.detector)]
            state = DetectorState(int(code)).name.lower()
            if state != expected.state:
                around = self._around(expected.at, [expected.detector])
                yield Failure(self.tests.line(path), f"{text}, it is in {state}", expected.at, around)

    @property
    def _not_judged(self) -> str:
        return f"the policy does not judge this request: {self.seen.verdict.situation.reason}"

    def _failure(self, path: str, text: str, at: int, rule: str) -> Failure:
        """With the scores of the detectors that the rule names; correlations and built-in rules name none."""
        rules = self.observer.policy.document.spec.rules
        named = [name for one in rules if one.id == rule for name in parse_condition(one.when).detectors]
        return Failure(self.tests.line(path), text, at, self._around(at, named))

    def _around(self, at: int, detectors: Sequence[str]) -> tuple[Scores, ...]:
        judgement = self.seen.verdict.judgement
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


def _late(late: bool) -> str:
    return "late" if late else "in time"
