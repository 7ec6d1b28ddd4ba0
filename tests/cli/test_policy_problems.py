"""Whichever command reads a policy, its problems are told one by one, with file and line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.command import Command

TWO_FAULTS = """\
apiVersion: monitor/v1
kind: Policy
metadata: {name: bio, revision: 0}
spec:
  detectors:
    - id: one
      source: {denseProbe: {file: w/p.safetensors}}
      aggregate: {kind: max}
      threshold: {fire: 2}
  rules:
    - {id: R-1, when: two.fire, severity: high}
"""
COMMANDS = {
    "check": ("policy", "check", "FILE"),
    "test": ("policy", "test", "FILE"),
    "diff of files": ("policy", "diff", "FILE", "FILE"),
    "diff of folders": ("policy", "diff", "FOLDER", "FOLDER"),
    "diff with live": ("policy", "diff", "live", "FILE"),
    "replay": ("policy", "replay", "FILE"),
    "explain": ("policy", "explain", "abc", "--policy", "FILE"),
    "calibrate": ("policy", "calibrate", "FILE", "--model", "FOLDER", "--benign", "FILE"),
    "sidecar": ("sidecar", "--policies", "FILE", "--listen", "unix:FOLDER/s.sock", "--store", "FOLDER/a.sqlite"),
}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "policies").mkdir()
    written = tmp_path / "policies" / "bad.yaml"
    written.write_text(TWO_FAULTS)
    return written


@pytest.mark.parametrize("name", COMMANDS)
def test_each_problem_is_one_line_then_comes_their_number(featurewatch: Command, file: Path, name: str) -> None:
    words = [word.replace("FILE", str(file)).replace("FOLDER", str(file.parent)) for word in COMMANDS[name]]
    code, shown, said = featurewatch(*words)
    assert (code, shown) == (2, "")
    first, second, count = said.splitlines()
    assert first.startswith(f"error {file}:3 metadata.revision: 0 — must be at least 1. ")
    assert second.startswith(f"error {file}:11 spec.rules[0].when: two — the policy has no such detector")
    assert count.startswith("problems: 2")


def test_a_folder_where_one_policy_is_meant_is_told(featurewatch: Command, file: Path) -> None:
    code, _, said = featurewatch("policy", "explain", "abc", "--policy", str(file.parent))
    assert code == 2
    assert said.startswith(f"error {file.parent}:1: Is a directory — it must be a readable text file in UTF-8. ")
    assert "Give a policy file.\n" in said


def test_a_file_without_end_is_read_no_further_than_a_policy_may_go(featurewatch: Command) -> None:
    code, _, said = featurewatch("policy", "check", "/dev/zero")
    assert code == 2
    assert "1,000,001 characters or more — the file has at most 1,000,000 characters. Split it." in said
    assert "/dev/zero:1" in said


def test_json_has_them_too(featurewatch: Command, file: Path) -> None:
    code, shown, said = featurewatch("policy", "check", str(file), "--json")
    assert (code, said) == (2, "")
    assert [problem["line"] for problem in json.loads(shown)["problems"]] == [3, 11]
