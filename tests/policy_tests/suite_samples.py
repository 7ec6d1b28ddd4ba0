"""A policy and tests of it that the tests of this room share."""

from __future__ import annotations

from monitor.policy import Policy, parse_policy
from monitor.policy_tests import CaseResult, check_against, parse_tests, run_tests

POLICY = """\
apiVersion: monitor/v1
kind: Policy
metadata: {name: bio, revision: 1}
spec:
  mode: alert
  match: {models: ["*tiny*"]}
  fittedOn: {model: tiny, dtype: float32}
  detectors:
    - id: bio
      source: {denseProbe: {file: weights/bio.safetensors}}
      aggregate: {kind: rolling_mean, window: 1}
      threshold: {warn: 1, fire: 2, clear: 1.5}
    - id: refusal
      source: {denseProbe: {file: weights/refusal.safetensors}}
      aggregate: {kind: rolling_mean, window: 1}
      threshold: {fire: 2}
  rules:
    - {id: BIO-001, when: bio.fire and not refusal.fire, for: 3 tokens, severity: high, actions: [alert, capture]}
    - {id: BIO-002, when: refusal.fire, severity: low}
"""
HEAD = "apiVersion: monitor/v1\nkind: PolicyTest\npolicy: bio.yaml\n"


def policy(text: str = POLICY) -> Policy:
    return parse_policy(text, "bio.yaml")


def file_of(*tests: str) -> str:
    """A test file with these tests, each one a flow mapping."""
    return HEAD + "tests:\n" + "".join(f"  - {test}\n" for test in tests)


def run(*tests: str, of: str = POLICY) -> list[CaseResult]:
    """Results of good tests."""
    read, judged = parse_tests(file_of(*tests), "bio_test.yaml"), policy(of)
    assert check_against(read, judged) == []
    return run_tests(read, judged)


def failures(test: str, of: str = POLICY) -> list[str]:
    """What one test complains about."""
    (result,) = run(test, of=of)
    return [failure.text for failure in result.failures]
