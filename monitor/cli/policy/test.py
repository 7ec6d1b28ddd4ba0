"""`featurewatch policy test`."""

from __future__ import annotations

import json as json_text
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from monitor.cli.common import console, err_console
from monitor.cli.printable import printable_line
from monitor.cli.problems import print_problems

if TYPE_CHECKING:
    from monitor.policy_tests import CaseResult, CoverageItem

    Results = Mapping[tuple[str, str], Sequence[CaseResult]]
    Coverage = Mapping[str, Sequence[CoverageItem]]


def run_policy_tests(  # noqa: PLR0917 - one parameter per command-line option
    paths: Annotated[
        list[Path],
        typer.Argument(metavar="DIR|FILE", help="Test files, policy files, or folders of both.", show_default=False),
    ],
    coverage: Annotated[bool, typer.Option("--coverage", help="Name what no test has shown at work.")] = False,
    fail_on_untested: Annotated[
        bool, typer.Option("--fail-on-untested", help="Fail when anything is untested.")
    ] = False,
    min_coverage: Annotated[
        float | None,
        typer.Option(metavar="PERCENT", min=0, max=100, help="Fail below this, for each policy.", show_default=False),
    ] = None,
    junit: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the results as JUnit XML.", show_default=False)
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Run the tests that lie beside policies (`<policy>_test.yaml`) through the engine that judges live requests.

    Exit code 0: all passed. 1: one failed, or too little is tested. 2: a file has a problem.
    """
    from monitor.cli.policy.found_tests import find_tests
    from monitor.policy_tests import coverage_of, junit_of_problems, junit_xml, run_tests

    found = find_tests(paths)
    if found.problems:
        if junit is not None:
            junit.write_text(junit_of_problems(found.problems), encoding="utf-8")
        print_problems(found.problems)
        raise typer.Exit(2)
    results: dict[tuple[str, str], list[CaseResult]] = {}
    covered: dict[str, list[CoverageItem]] = {}
    for file, policy in found.policies.items():
        seen = []
        for tests in found.tests.get(file, ()):
            results[tests.file, policy.name] = run_tests(tests, policy)
            seen += [result.observation for result in results[tests.file, policy.name]]
        covered[policy.file] = coverage_of(policy, seen)
    least = 100.0 if fail_on_untested else min_coverage
    short = {} if least is None else {file: items for file, items in covered.items() if _percent(items) < least}
    if junit is not None:
        untested = {
            file: [_untested(file, item) for item in items if not item.covered] for file, items in short.items()
        }
        junit.write_text(junit_xml(results, untested), encoding="utf-8")
    if json:
        typer.echo(json_text.dumps(_summary(results, covered), indent=2))
    else:
        _show_results(results)
        _show_coverage(covered, short, every=coverage)
    if short or not all(result.passed for cases in results.values() for result in cases):
        raise typer.Exit(1)


def _show_results(results: Results) -> None:
    from monitor.policy_tests.report import failure_text

    for (file, policy), cases in results.items():
        _say(f"[bold]{_shown(file)}[/bold]  policy {_shown(policy)}")
        for result in cases:
            mark = "[green]ok  [/green]" if result.passed else "[bold red]FAIL[/bold red]"
            _say(f"  {mark} {_shown(result.name)}")
            for failure in result.failures:
                for line in failure_text(file, failure):
                    _say(f"       {escape(printable_line(line))}")
    passed = sum(result.passed for cases in results.values() for result in cases)
    total = sum(map(len, results.values()))
    _say(f"tests: {passed} passed, {total - passed} failed")


def _show_coverage(covered: Coverage, short: Coverage, *, every: bool) -> None:
    for file, items in (covered if every else short).items():
        count = sum(item.covered for item in items)
        _say(f"coverage of {_shown(file)}: {count} of {len(items)} ({_percent(items):.0f} %)")
        for item in items:
            if not item.covered:
                _say(f"  [yellow]untested[/yellow] {escape(printable_line(_untested(file, item)))}")
    if short:
        err_console.print(f"coverage: too low for {len(short)} of {len(covered)} policies", highlight=False)


def _untested(file: str, item: CoverageItem) -> str:
    return f"{file}:{item.line} {item.field}: {item.what}"


def _percent(items: Sequence[CoverageItem]) -> float:
    return 100.0 * sum(item.covered for item in items) / len(items)


def _summary(results: Results, covered: Coverage) -> dict[str, Any]:
    return {
        "files": [
            {
                "file": file,
                "policy": policy,
                "tests": [
                    {
                        "name": result.name,
                        "line": result.line,
                        "passed": result.passed,
                        "failures": [
                            {"line": failure.line, "at": failure.at, "text": failure.text}
                            for failure in result.failures
                        ],
                    }
                    for result in cases
                ],
            }
            for (file, policy), cases in results.items()
        ],
        "coverage": [
            {
                "file": file,
                "percent": round(_percent(items), 2),
                "items": [
                    {"line": item.line, "field": item.field, "what": item.what, "covered": item.covered}
                    for item in items
                ],
            }
            for file, items in covered.items()
        ],
    }


def _shown(text: str) -> str:
    return escape(printable_line(text))


def _say(text: str) -> None:
    console.print(text, soft_wrap=True, highlight=False)
