"""Whether the tests of a file fit the policy that they are for."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from monitor.policy.built_in_rules import built_in_rules
from monitor.policy.nearest import nearest
from monitor.policy.policy import Policy
from monitor.policy.problem import Problem
from monitor.policy.yaml_fields import Fields
from monitor.policy_tests.expectations import ExpectedNotification
from monitor.policy_tests.generation import CLASSES, PHASES, SEEN, Generation
from monitor.policy_tests.parse import PolicyTests
from monitor.policy_tests.schema import Case
from monitor.policy_tests.sending import Sent, is_meant, requests_of
from monitor.policy_tests.series import length_of, parse_scores, parse_words


def check_against(tests: PolicyTests, policy: Policy) -> list[Problem]:
    """What the tests name must be in the policy, and a request's series must be equally long; in order of lines."""
    check = _Check(tests, policy, Fields(tests.file))
    for index, case in enumerate(tests.cases):
        check.case(f"tests[{index}]", case)
    return check.found.told()


@dataclass
class _Check:
    tests: PolicyTests
    policy: Policy
    found: Fields

    def case(self, path: str, case: Case) -> None:
        requests = requests_of(case)
        if case.requests is None:
            sizes = {-1: self.generation(path, case)}
        else:
            sizes = {
                entry: self.generation(f"{path}.requests[{entry}]", one) for entry, one in enumerate(case.requests)
            }
        spec = self.policy.document.spec
        exceptions = {rule.id: [one.name for one in rule.exceptions] for rule in spec.rules}
        correlations = [one.id for one in spec.correlations]
        known = [*exceptions, *correlations, *built_in_rules(self.policy)]
        for number, firing in enumerate(case.expect):
            here = f"{path}.expect[{number}]"
            self.place(here, firing.request, firing.at, requests, sizes)
            self.known(f"{here}.rule", firing.rule, known, "rule")
            if firing.exception is not None and firing.rule in known:
                names = exceptions.get(firing.rule, [])
                self.known(f"{here}.exception", firing.exception, names, f"exception of {firing.rule}")
            if firing.correlated is not None and firing.rule in known and firing.rule not in correlations:
                rule = f"only a correlation names other alerts, and {firing.rule} is none"
                self.refuse(f"{here}.correlated", str(firing.correlated), rule, "remove correlated")
        for number, state in enumerate(case.expect_states):
            here = f"{path}.expectStates[{number}]"
            self.place(here, state.request, state.at, requests, sizes)
            self.known(f"{here}.detector", state.detector, [one.id for one in spec.detectors], "detector")
        if case.expect_notifications is not None:
            self.notifications(f"{path}.expectNotifications", case.expect_notifications)

    def generation(self, path: str, given: Generation) -> int:
        """Of one request; returns how many tokens it has."""
        lengths = {name: length_of(parse_scores(text)) for name, text in (given.tokens or {}).items()}
        detectors = [detector.id for detector in self.policy.document.spec.detectors]
        first, size = next(iter(lengths.items()))
        for name, length in lengths.items():
            self.known(f"{path}.tokens.{name}", name, detectors, "detector")
            self.equal(f"{path}.tokens.{name}", length, size, first)
        words = (("phases", given.phases, PHASES), ("classes", given.classes, CLASSES), ("seen", given.seen, SEEN))
        for name, text, choices in words:
            if text is not None:
                self.equal(f"{path}.{name}", len(parse_words(text, choices)), size, first)
        if given.prompt is not None and given.prompt > size:
            rule = f"the test has {size} tokens"
            self.refuse(f"{path}.prompt", str(given.prompt), rule, f"write at most {size}")
        return size

    def place(
        self, path: str, which: int | str | None, at: int, requests: Sequence[Sent], sizes: dict[int, int]
    ) -> None:
        """The request that an expectation is about, and the token in it."""
        meant = [sent for sent in requests if is_meant(sent, which)]
        if isinstance(which, str) and not meant:
            names = dict.fromkeys(sent.name for sent in requests if sent.name)
            self.known(f"{path}.request", which, names, "request", "test")
        elif not meant:
            rule = f"the test has requests 0 to {len(requests) - 1}"
            self.refuse(f"{path}.request", str(which), rule, "name one of them")
        else:
            shortest = min(meant, key=lambda sent: sizes[sent.entry])
            size, what = sizes[shortest.entry], f"request {shortest.number}" if shortest.entry >= 0 else "the test"
            if at >= size:
                self.refuse(f"{path}.at", str(at), f"{what} has tokens 0 to {size - 1}", "name one of them")

    def notifications(self, path: str, expected: Sequence[ExpectedNotification]) -> None:
        notify = self.policy.document.spec.notify
        if notify is None:
            rule = "the policy has no notify, so it sends none"
            self.refuse(path, f"{len(expected)} entries", rule, "remove expectNotifications")
            return
        for number, one in enumerate(expected):
            here = f"{path}[{number}].group"
            for name in one.group:
                self.known(f"{here}.{name}", name, notify.group_by, "field in groupBy")
            for name in notify.group_by:
                if name not in one.group:
                    rule = f"alerts are gathered by {', '.join(notify.group_by)}, and {name} is missing"
                    self.refuse(here, "", rule, f"add {name}, e.g. group: {{{name}: acme}}")

    def known(self, path: str, name: str, names: Iterable[str], what: str, owner: str = "policy") -> None:
        known = list(names)
        if name not in known:
            near = None if self.found.full else nearest(name, known)
            rule = f"the {owner} has no such {what} (it has: {', '.join(known) or 'none'})"
            self.refuse(path, name, rule, f"did you mean {near}" if near else "name one of them")

    def equal(self, path: str, length: int, size: int, first: str) -> None:
        if length != size:
            rule = f"series of a request are equally long, and that of {first} has {size} tokens"
            self.refuse(path, f"{length} tokens", rule, "fill the shorter one up, with _ where nothing is judged")

    def refuse(self, path: str, value: str, rule: str, remedy: str) -> None:
        self.found.refuse(self.tests.line(path), path, value, rule, remedy)
