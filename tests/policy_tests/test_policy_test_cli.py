"""`featurewatch policy test`."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from suite_samples import POLICY, file_of
from typer.testing import CliRunner, Result

from monitor.cli.policy import app
from monitor.errors import FeaturewatchError

FIRES = "{name: fires, tokens: {bio: '8x3'}, expect: [{at: 2, rule: BIO-001}]}"
WRONG = "{name: wrong, tokens: {bio: '8x3'}, expect: []}"


def run(*arguments: Path | str) -> Result:
    return CliRunner().invoke(app, ["test", *map(str, arguments)], env={"COLUMNS": "200"})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "bio.yaml").write_text(POLICY)
    (tmp_path / "bio_test.yaml").write_text(file_of(FIRES))
    return tmp_path


@pytest.mark.parametrize("name", ["", "bio.yaml", "bio_test.yaml"])
def test_folder_policy_file_and_test_file_mean_the_same(folder: Path, name: str) -> None:
    result = run(folder / name)
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines() == [
        f"{folder}/bio_test.yaml  policy bio",
        "  ok   fires",
        "tests: 1 passed, 0 failed",
    ]


def test_a_failed_test_fails_the_command(folder: Path) -> None:
    (folder / "bio_test.yaml").write_text(file_of(FIRES, WRONG))
    result = run(folder)
    assert result.exit_code == 1
    lines = result.stdout.splitlines()
    assert lines[2] == "  FAIL wrong"
    assert lines[3].strip() == f"{folder}/bio_test.yaml:6 BIO-001 fired at token 2, which is not expected"
    assert lines[-1] == "tests: 1 passed, 1 failed"


def test_untested_things_are_listed_and_fail_on_request(folder: Path) -> None:
    listed = run(folder, "--coverage")
    assert listed.exit_code == 0
    assert f"coverage of {folder}/bio.yaml: " in listed.stdout
    assert f"untested {folder}/bio.yaml:19 spec.rules[1].id: rule BIO-002 fires" in listed.stdout
    assert run(folder, "--fail-on-untested").exit_code == 1
    percent = json.loads(run(folder, "--json").stdout)["coverage"][0]["percent"]
    assert run(folder, "--min-coverage", f"{percent - 1}").exit_code == 0
    assert run(folder, "--min-coverage", f"{percent + 1}").exit_code == 1


def test_a_policy_without_tests_is_untested(folder: Path) -> None:
    (folder / "other.yaml").write_text(POLICY.replace("name: bio", "name: other"))
    assert run(folder).exit_code == 0
    result = run(folder, "--min-coverage", "1")
    assert result.exit_code == 1
    assert f"coverage of {folder}/other.yaml: 0 of 18 (0 %)" in result.stdout
    assert "too low for 1 of 2 policies" in result.stderr


def test_tests_of_one_policy_may_lie_in_several_files(folder: Path) -> None:
    (folder / "more_test.yaml").write_text(
        file_of("{name: more, tokens: {refusal: '8'}, expect: [{at: 0, rule: BIO-002}]}")
    )
    covered = {
        item["what"] for item in json.loads(run(folder, "--json").stdout)["coverage"][0]["items"] if item["covered"]
    }
    assert {"rule BIO-001 fires", "rule BIO-002 fires"} <= covered


@pytest.mark.parametrize(
    ("file", "text", "told"),
    [
        ("bio_test.yaml", "a: 1", "bio_test.yaml:1 apiVersion: the field is required. Add apiVersion."),
        (
            "bio_test.yaml",
            file_of(FIRES).replace("bio.yaml", "bo.yaml"),
            "bio_test.yaml:3 policy: bo.yaml — there is no",
        ),
        ("bio_test.yaml", file_of(FIRES.replace("001", "007")), "rule: BIO-007 — the policy has no such rule"),
        ("bio.yaml", POLICY.replace("window: 1", "windw: 1"), "there is no such field here"),
    ],
)
def test_bad_files_are_refused(folder: Path, file: str, text: str, told: str) -> None:
    (folder / file).write_text(text)
    result = run(folder)
    assert result.exit_code == 2
    assert told in result.stderr


def test_a_folder_without_tests_is_refused(folder: Path) -> None:
    (folder / "bio_test.yaml").unlink()
    for path in (folder, folder / "bio.yaml"):
        error = run(path).exception
        assert isinstance(error, FeaturewatchError)
        assert "it holds no test file" in str(error)


def test_junit_xml(folder: Path) -> None:
    hostile = WRONG.replace("wrong", '"<&\\u0007 \\u202e]]>"')
    (folder / "bio_test.yaml").write_text(file_of(FIRES, hostile))
    report = folder / "report.xml"
    assert run(folder, "--junit", report, "--fail-on-untested").exit_code == 1
    root = ET.parse(report).getroot()
    assert root.tag == "testsuites"
    assert root.attrib == {"name": "featurewatch policy test", "tests": "3", "failures": "2", "errors": "0"}
    tests, coverage = root
    assert (tests.attrib["name"], tests.attrib["tests"], tests.attrib["failures"]) == (
        f"{folder}/bio_test.yaml",
        "2",
        "1",
    )
    assert [case.attrib["classname"] for case in tests] == ["bio", "bio"]
    assert tests[0].find("failure") is None
    failure = tests[1].find("failure")
    assert failure is not None
    assert "BIO-001 fired at token 2" in failure.attrib["message"]
    assert "aggregate" in str(failure.text)
    untested = coverage[0].find("failure")
    assert untested is not None
    assert "rule BIO-002 fires" in str(untested.text)


def test_junit_xml_of_files_with_problems_is_not_that_of_the_run_before(folder: Path) -> None:
    report = folder / "report.xml"
    assert run(folder, "--junit", report).exit_code == 0
    (folder / "bio_test.yaml").write_text(file_of(FIRES.replace("expect:", "expects:")))
    (folder / "other_test.yaml").write_text("policy: \u0007 <bio>")
    assert run(folder, "--junit", report).exit_code == 2
    root = ET.parse(report).getroot()
    assert (root.attrib["tests"], root.attrib["failures"], root.attrib["errors"]) == ("2", "0", "2")
    assert [suite.attrib["name"] for suite in root] == [f"{folder}/bio_test.yaml", f"{folder}/other_test.yaml"]
    error = root[0][0].find("error")
    assert error is not None
    assert "tests[0].expect: the field is required. Add expect." in error.attrib["message"]
    assert "Did you mean expect?" in str(error.text)


def test_the_policies_of_this_checkout_are_tested_in_full() -> None:
    folder = Path(__file__).parents[2] / "policies"
    result = run(folder, folder / "templates", "--fail-on-untested")
    assert result.exit_code == 0, result.output
