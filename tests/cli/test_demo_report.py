"""The demo's table and tally: misses, false alarms and failures are in them, also in a narrow terminal."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from monitor.cli.demo.prompts import Kind, Prompt
from monitor.cli.demo.report import generations_table, tally
from monitor.cli.demo.traffic import Answer
from monitor.v1.coverage_pb2 import Coverage
from monitor.v1.generations_pb2 import DetectorPeak, GenerationSummary

LONG = "a prompt that is much longer than any terminal has room for, " * 3


def _summary(*fired: str, score: float, unseen: int = 0) -> GenerationSummary:
    return GenerationSummary(
        fired=fired,
        coverage=Coverage(positions=61, observed=61 - unseen, unseen=unseen),
        peaks=[
            DetectorPeak(policy="harm", detector=name, score=score + offset, fire=2.0)
            for offset, name in enumerate(["dense", "sae_probe", "latents"])
        ],
    )


def _answer(kind: Kind, name: str, error: str = "") -> Answer:
    return Answer(Prompt(kind, f"{name} {LONG}"), "" if error else name, error=error)


ANSWERS = [
    _answer("harmful", "found"),
    _answer("harmful", "missed"),
    _answer("hard benign", "false"),
    _answer("ordinary", "quiet"),
    _answer("ordinary", "never"),
]
SUMMARIES = {
    "found": _summary("harm/HARM-001", score=7.25),
    "missed": _summary(score=0.75),
    "false": _summary("harm/HARM-001", score=3.5, unseen=16),
    "quiet": _summary(score=-1.5),
}


@pytest.mark.parametrize("width", [80, 130, 200])
def test_every_verdict_and_score_is_legible(width: int) -> None:
    out = io.StringIO()
    Console(file=out, width=width).print(generations_table(ANSWERS, SUMMARIES))
    lines = out.getvalue().splitlines()
    rows = {
        answer.prompt.text.split()[0]: line
        for answer in ANSWERS
        for line in lines
        if line.split()[:1] == answer.prompt.text.split()[:1]
    }
    assert len(rows) == len(ANSWERS)
    assert [line.strip() for line in lines if line.strip() in ("harmful", "hard benign", "ordinary")] == [
        "harmful",
        "hard benign",
        "ordinary",
    ]
    assert all(len(line) <= width for line in lines)
    for part in ("HARM-001", "hit", "7.25", "8.25", "9.25", "61/61"):
        assert part in rows["found"]
    for part in ("clear", "MISS", "0.75"):
        assert part in rows["missed"]
    for part in ("FALSE ALARM", "3.50", "45/61"):
        assert part in rows["false"]
    assert "correct" in rows["quiet"]
    assert "not" in rows["never"]
    assert "≥ 2.00" in out.getvalue()


def test_a_failed_request_is_named() -> None:
    out = io.StringIO()
    Console(file=out, width=200).print(generations_table([_answer("harmful", "x", error="HTTP 500")], {}))
    assert "request failed: HTTP 500" in out.getvalue()


def test_the_tally_counts_misses_and_false_alarms() -> None:
    assert tally(ANSWERS, SUMMARIES) == [
        "harmful: 1 of 2 flagged",
        "hard benign: 1 of 1 flagged (false alarms)",
        "ordinary: 0 of 2 flagged (false alarms)",
    ]
