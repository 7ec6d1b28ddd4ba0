"""New thresholds in an old file: everything else stays, character by character."""

from __future__ import annotations

import difflib
import json
import re
from pathlib import Path

import pytest
from calibration_samples import POLICY, policy

from monitor.calibration.levels import Levels, stated_levels
from monitor.calibration.policy_text import Change, changed_text
from monitor.policy import Policy, parse_policy

BENIGN = "chat texts (split val; a, b)@sha256:" + "0" * 64
STATED: dict[str, float | int | str] = {
    "targetFpr": 0.01,
    "confidence": 0.95,
    "benign": BENIGN,
    "n": 953,
    "hits": 4,
    "date": "2026-11-21",
}
LEVELS = {"a": Levels(2.5, 1.25, 2.0), "b": Levels(3.0, -0.000125, None)}


def change(fitted_on: dict[str, str] | None = None, **fields: float | int | str) -> Change:
    return Change(LEVELS, dict.fromkeys(LEVELS, STATED | fields), fitted_on or {})


def different_lines(before: str, after: str) -> list[str]:
    lines = difflib.ndiff(before.splitlines(), after.splitlines())
    return sorted(line for line in lines if line[0] in "+-")


def test_only_thresholds_calibration_and_revision_change() -> None:
    toy = policy()
    text = changed_text(toy, change())
    expected = [
        "- metadata: {name: toy, revision: 7}  # raised by calibrate",
        "+ metadata: {name: toy, revision: 8}  # raised by calibrate",
        "-         fire: 10  # set by hand",
        "-         warn: 8",
        "-         clear: 9",
        "+         fire: 2.5  # set by hand",
        "+         warn: 1.25",
        "+         clear: 2",
        "+       calibration:",
        "+         targetFpr: 0.01",
        "+         confidence: 0.95",
        f'+         benign: "{BENIGN}"',
        "+         n: 953",
        "+         hits: 4",
        "+         date: 2026-11-21",
        "-       threshold: {warn: 4, fire: 5}",
        "-       calibration: {targetFpr: 0.05, benign: old, n: 100, hits: 3, recall: 0.5}",
        "+       threshold: {warn: -0.000125, fire: 3}",
        f'+       calibration: {{targetFpr: 0.01, benign: "{BENIGN}", n: 953, hits: 4, confidence: 0.95, '
        "date: 2026-11-21}",
    ]
    assert different_lines(toy.source, text) == sorted(expected)


def test_numbers_that_stay_keep_their_spelling() -> None:
    toy = policy(text=POLICY.replace("fire: 10 ", "fire: 1.0e1 "))
    same = Change(stated_levels(toy), {"a": STATED, "b": STATED}, {})
    assert "fire: 1.0e1  # set by hand" in changed_text(toy, same)


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("spec:\n", '  fittedOn:\n    model: tiny\n    vllm: "0.32"\n  detectors:'),
        ("spec:\n  mode: alert  # loud\n", '  mode: alert  # loud\n  fittedOn:\n    model: tiny\n    vllm: "0.32"\n'),
        (
            "spec:\n  fittedOn: {dtype: float32, model: other}\n",
            '  fittedOn: {dtype: float32, model: tiny, vllm: "0.32"}\n',
        ),
        (
            "spec:\n  fittedOn:\n    # what runs\n    model: other # here\n",
            '    model: tiny # here\n    vllm: "0.32"\n',
        ),
        ("spec:\n  fittedOn: {}\n", '  fittedOn: {model: tiny, vllm: "0.32"}\n'),
    ],
)
def test_fitted_on_is_stated_where_it_is_or_belongs(spec: str, expected: str) -> None:
    toy = policy(text=POLICY.replace("spec:\n", spec))
    text = changed_text(toy, change({"model": "tiny", "vllm": "0.32"}))
    assert expected in text
    assert text.count("fittedOn") == 1


@pytest.mark.parametrize(
    "block",
    [
        "\n        n: 1  # first\n        hits: 0\n        targetFpr: 0.5\n        recall: 1\n        benign: |-\n"
        "          a\n          b\n",
        "\n        benign: >\n          folded\n          text\n\n        # about n\n        n: 7\n        hits: 1\n"
        "        harmful: gone\n        targetFpr: 1e-1\n",
        " {recall: 1, n: 1, hits: 0,\n        targetFpr: 0.5, benign: x, harmful: y}\n",
        " {harmful: 'y', benign: \"x # no\", n: 1, hits: 0, targetFpr: 0.5}\n",
    ],
)
def test_layouts_of_a_calibration(block: str) -> None:
    old = "{targetFpr: 0.05, benign: old, n: 100, hits: 3, recall: 0.5}\n"
    assert old in POLICY
    toy = policy(text=POLICY.replace(" " + old, block))
    text = changed_text(toy, change())
    for comment in re.findall(r"#.*", toy.source):
        assert comment in text or comment.startswith("# no")
    stated = parse_policy(text).document.spec.detectors[1].calibration
    assert stated is not None
    assert stated.model_dump(by_alias=True, exclude_none=True) == STATED
    assert parse_policy(text).document.spec.detectors[1].threshold.fire == 3


def test_a_whole_policy_in_one_line() -> None:
    toy = _flat(policy())
    text = changed_text(toy, change({"model": "tiny"}))
    assert "\n" not in text
    assert parse_policy(text).document.spec.fitted_on.model == "tiny"


def test_text_without_a_last_line_break_and_with_carriage_returns() -> None:
    for source in (POLICY.rstrip(), POLICY.replace("\n", "\r\n")):
        toy = policy(text=source)
        text = changed_text(toy, change())
        assert text.endswith(source[-12:])
        assert parse_policy(text).revision == 8


def test_the_policies_of_this_repository_can_be_calibrated() -> None:
    files = [
        file
        for file in sorted((Path(__file__).parents[2] / "policies").glob("*.yaml"))
        if not file.stem.endswith("_test")
    ]
    assert files
    for file in files:
        found = parse_policy(file.read_text(), str(file))
        stated = Change(
            {
                name: Levels(9.5, None if old.warn is None else 9.25, None if old.clear is None else 9.3)
                for name, old in stated_levels(found).items()
            },
            dict.fromkeys(stated_levels(found), STATED),
            {"model": "other", "dtype": "bfloat16"},
        )
        again = parse_policy(changed_text(found, stated))
        assert {detector.threshold.fire for detector in again.document.spec.detectors} == {9.5}
        assert again.document.spec.rules == found.document.spec.rules


def _flat(toy: Policy) -> Policy:
    document = toy.document.model_dump(by_alias=True, exclude_none=True, mode="json")
    document["spec"].pop("fittedOn")
    return parse_policy(json.dumps(document), "flat.yaml")
