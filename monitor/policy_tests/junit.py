"""Results as JUnit XML, the form that CI systems read: a test suite per test file, a test case per test."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from xml.etree import ElementTree as ET

from monitor.policy_tests.report import failure_text
from monitor.policy_tests.run import CaseResult

# Characters of the categories control, surrogate and not assigned: most of them XML cannot hold.
_UNPRINTABLE = frozenset({"Cc", "Cs", "Cn"})


def junit_xml(results: Mapping[tuple[str, str], Sequence[CaseResult]], shortfalls: Mapping[str, Sequence[str]]) -> str:
    """The document.

    Args:
        results: by test file and policy name.
        shortfalls: by policy file what no test has shown, where that is a failure; other policies are left out.
    """
    root = ET.Element("testsuites", name="featurewatch policy test")
    for (file, policy), cases in results.items():
        suite = ET.SubElement(root, "testsuite", name=_shown(file))
        for result in cases:
            case = ET.SubElement(suite, "testcase", classname=_shown(policy), name=_shown(result.name))
            if result.failures:
                message = f"{file}:{result.failures[0].line} {result.failures[0].text}"
                failure = ET.SubElement(case, "failure", message=_shown(message), type="policy")
                lines = [line for one in result.failures for line in failure_text(file, one)]
                failure.text = "\n".join(map(_shown, lines))
    for policy, untested in shortfalls.items():
        suite = ET.SubElement(root, "testsuite", name=_shown(f"coverage of {policy}"))
        case = ET.SubElement(suite, "testcase", classname=_shown(policy), name="coverage")
        failure = ET.SubElement(case, "failure", message=_shown(f"{len(untested)} untested"), type="coverage")
        failure.text = "\n".join(map(_shown, untested))
    for element in (*root, root):
        cases_below = list(element.iter("testcase"))
        failed = sum(case.find("failure") is not None for case in cases_below)
        element.attrib |= {"tests": str(len(cases_below)), "failures": str(failed), "errors": "0"}
    ET.indent(root)
    return ET.tostring(root, encoding="unicode", xml_declaration=False)


def _shown(text: str) -> str:
    return "".join(" " if unicodedata.category(character) in _UNPRINTABLE else character for character in text)
