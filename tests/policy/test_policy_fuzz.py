"""Mutated policies are accepted with all their fields or refused with line, rule and remedy; nothing else comes out.

Every run judges the same part; all of it: ``python tests/policy/fuzz_policies.py``.
"""

from __future__ import annotations

from collections import Counter

import pytest
from policy_mutations import mutated
from policy_oracle import verdict
from policy_seeds import SEEDS

from monitor.policy import parse, problem_text


@pytest.mark.parametrize("block", range(8))
def test_a_mutated_policy_is_accepted_or_refused(block: int) -> None:
    verdicts = Counter(verdict(mutated(seed)) for seed in range(block * 200, block * 200 + 200))
    assert verdicts["accepted"] > 10
    assert verdicts["refused"] > 50


@pytest.mark.parametrize("seed", SEEDS)
def test_what_the_mutations_start_from_is_accepted(seed: str) -> None:
    assert verdict(SEEDS[seed]) == "accepted"


def test_the_oracle_notices_a_field_that_is_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    real = parse.read_fields

    def ignoring(text: str, file: str) -> object:
        fields = real(text, file)
        del fields.data["metadata"]["status"]
        return fields

    monkeypatch.setattr(parse, "read_fields", ignoring)
    with pytest.raises(AssertionError, match="metadata"):
        verdict(SEEDS["good"])


def test_the_oracle_notices_a_line_outside_of_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(problem_text, "line_of", lambda lines, path: 1000)
    with pytest.raises(AssertionError, match="1000"):
        verdict(SEEDS["good"].replace("mode: alert", "mode: blue"))
