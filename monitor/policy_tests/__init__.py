"""Tests of policies as data: written beside the policy, run by the production engine, with coverage. Pure: no I/O."""

from monitor.policy_tests.coverage import CoverageItem, coverage_of
from monitor.policy_tests.junit import junit_xml
from monitor.policy_tests.parse import PolicyTests, check_against, parse_tests
from monitor.policy_tests.run import CaseResult, Failure, run_tests
from monitor.policy_tests.schema import json_schema_of_tests

__all__ = [
    "CaseResult",
    "CoverageItem",
    "Failure",
    "PolicyTests",
    "check_against",
    "coverage_of",
    "json_schema_of_tests",
    "junit_xml",
    "parse_tests",
    "run_tests",
]
