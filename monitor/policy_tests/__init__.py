"""Tests of policies as data: written beside the policy, run by the production engine, with coverage. Pure: no I/O."""

from monitor.policy_tests.check import check_against
from monitor.policy_tests.coverage import CoverageItem, coverage_of
from monitor.policy_tests.failure import Failure
from monitor.policy_tests.junit import junit_of_problems, junit_xml
from monitor.policy_tests.parse import PolicyTests, parse_tests
from monitor.policy_tests.run import CaseResult, run_tests
from monitor.policy_tests.schema import json_schema_of_tests

__all__ = [
    "CaseResult",
    "CoverageItem",
    "Failure",
    "PolicyTests",
    "check_against",
    "coverage_of",
    "json_schema_of_tests",
    "junit_of_problems",
    "junit_xml",
    "parse_tests",
    "run_tests",
]
