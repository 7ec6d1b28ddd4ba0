"""Runs the tests of a file."""

from __future__ import annotations

from dataclasses import dataclass

from monitor.policy.policy import Policy
from monitor.policy_tests.compare import Comparison
from monitor.policy_tests.compare_notified import notification_failures
from monitor.policy_tests.failure import Failure, of_all_requests
from monitor.policy_tests.observe import Observer
from monitor.policy_tests.observed import Observation
from monitor.policy_tests.parse import PolicyTests


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
    """Runs all tests of a file that has passed `check_against` this policy."""
    observer = Observer(policy)
    results = []
    for index, case in enumerate(tests.cases):
        path = f"tests[{index}]"
        seen = observer.observe(case)
        compared = [(one.sent, Comparison(tests, path, case, observer, one)) for one in seen.requests]
        failures = of_all_requests((sent, failure) for sent, one in compared for failure in one.failures())
        failures += notification_failures(tests, path, case, seen)
        results.append(CaseResult(case.name, tests.line(f"{path}.name"), tuple(failures), seen))
    return results
