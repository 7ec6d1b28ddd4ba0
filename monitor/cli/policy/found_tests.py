"""Finds and reads test files with the policies that they are for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from monitor.errors import FeaturewatchError
from monitor.policy import Policy, PolicyError, Problem
from monitor.policy_tests import PolicyTests, check_against, parse_tests
from monitor.sidecar.policy_files import policy_files, read_policies, text_of

_SUFFIXES = (".yaml", ".yml")


@dataclass
class FoundTests:
    """What was read.

    Attributes:
        policies: all, by file; those without tests too.
        tests: by the file of the policy that they are for.
    """

    policies: dict[Path, Policy] = field(default_factory=dict)
    tests: dict[Path, list[PolicyTests]] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def add(self, file: Path) -> None:
        """A test file with its policy."""
        try:
            tests = parse_tests(text_of(file, "give a test file, or a folder"), str(file))
        except PolicyError as error:
            self.problems += error.problems
            return
        policy_file = file.parent / tests.policy
        if not policy_file.is_file():
            line = tests.line("policy")
            rule, remedy = "there is no such file beside the test file", "name the policy file, e.g. my-policy.yaml"
            self.problems.append(Problem(str(file), line, "policy", tests.policy, rule, remedy))
            return
        policy = self.add_policy(policy_file)
        if policy is not None:
            self.problems += check_against(tests, policy)
            self.tests.setdefault(policy_file, []).append(tests)

    def add_policy(self, file: Path) -> Policy | None:
        """Reads a policy once; None when it is refused."""
        if file not in self.policies:
            policies, problems = read_policies([file])
            self.problems += [problem for problem in problems if problem not in self.problems]
            if not policies:
                return None
            self.policies[file] = policies[0]
        return self.policies[file]


def find_tests(paths: Sequence[Path]) -> FoundTests:
    """Test files as given, those beside policy files as given, and of folders all policies and test files.

    Raises:
        FeaturewatchError: there is no test file at all.
    """
    found, files = FoundTests(), list[Path]()
    for path in paths:
        if path.is_dir():
            for policy_file in policy_files([path]):
                found.add_policy(policy_file)
            files += sorted(file for file in path.iterdir() if file.suffix in _SUFFIXES and _is_tests(file))
        elif _is_tests(path):
            files.append(path)
        else:
            found.add_policy(path)
            files += _beside(path)
    for file in dict.fromkeys(files):
        found.add(file)
    if not files and not found.problems:
        shown = ", ".join(map(str, paths))
        raise FeaturewatchError(shown, "it holds no test file (*_test.yaml)", "write one beside the policy")
    return found


def _is_tests(path: Path) -> bool:
    return path.stem.endswith("_test")


def _beside(policy_file: Path) -> list[Path]:
    """The test file of a policy file, named after it."""
    candidates = [policy_file.with_name(f"{policy_file.stem}_test{suffix}") for suffix in _SUFFIXES]
    return [file for file in candidates if file.is_file()]
