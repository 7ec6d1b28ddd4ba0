"""Results as JUnit XML, the form that CI systems read: a test suite per test file, a test case per test."""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from collections.abc import Mapping, Sequence
from xml.etree import ElementTree as ET

from monitor.policy.problem import Problem
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
    return _text(root)


def junit_of_problems(problems: Sequence[Problem]) -> str:
    """The document of a run in which no test ran because files have problems: a test case per file, with an error."""
    by_file = defaultdict[str, list[str]](list)
    for problem in problems:
        by_file[problem.file].append(str(problem))
    root = ET.Element("testsuites", name="featurewatch policy test")
    for file, lines in by_file.items():
        suite = ET.SubElement(root, "testsuite", name=_shown(file))
        case = ET.SubElement(suite, "testcase", classname=_shown(file), name="well-formed")
        error = ET.SubElement(case, "error", message=_shown(lines[0]), type="file")
        error.text = "\n".join(map(_shown, lines))
    return _text(root)


def _text(root: ET.Element) -> str:
    """With the counts of every suite and of all."""
    for element in (*root, root):
        cases_below = list(element.iter("testcase"))
        failed, faulty = (sum(case.find(kind) is not None for case in cases_below) for kind in ("failure", "error"))
        element.attrib |= {"tests": str(len(cases_below)), "failures": str(failed), "errors": str(faulty)}
    ET.indent(root)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{ET.tostring(root, encoding="unicode", xml_declaration=False)}\n'


def _shown(text: str) -> str:
    return "".join(" " if unicodedata.category(character) in _UNPRINTABLE else character for character in text)
