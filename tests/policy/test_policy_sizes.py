"""Files of hostile size are refused with as much work as their size asks for, and no more."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from faults import faults
from policy_samples import GOOD

from monitor.policy import crosscheck, problem_text
from monitor.policy.nearest import nearest
from monitor.policy.when import parse_condition
from monitor.policy.yaml_fields import MAX_NAME, MOST_PROBLEMS, read_fields, shorten

UNKNOWN = GOOD + "".join(f"x{number}: 1\n" for number in range(1000))
RULES = "".join(f"    - {{id: R{number}, when: d{number}x.fire, severity: low}}\n" for number in range(250))
STRANGERS = GOOD[: GOOD.index("  record:")] + RULES


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names for which the nearest one was searched."""
    names = list[str]()

    def counted(name: str, known: Any) -> str | None:
        names.append(name)
        return nearest(name, known)

    for module in (problem_text, crosscheck):
        monkeypatch.setattr(module, "nearest", counted)
    return names


def test_of_a_thousand_unknown_fields_a_hundred_are_told(asked: list[str]) -> None:
    *told, more = faults(UNKNOWN)
    assert len(told) == len(asked) == MOST_PROBLEMS
    assert [problem.field for problem in told] == [f"x{number}" for number in range(MOST_PROBLEMS)]
    last = "and 900 more problems — of a file the first 100 problems are told. Correct these and try again."
    assert str(more) == f"p.yaml:{told[-1].line}: {last}"


def test_of_many_names_that_no_block_has_a_hundred_are_looked_up(asked: list[str]) -> None:
    told = faults(STRANGERS)
    assert len(asked) == MOST_PROBLEMS
    assert told[0].rule.startswith("the policy has no such detector")
    assert told[-1].value == "and 150 more problems"


def test_what_reading_refused_is_not_counted_again() -> None:
    told = faults(GOOD.replace('["*Tiny*"]', f"[{'~, ' * 150}a]"))
    assert told[0].rule == "the field has no value"
    # Each of them is no text either.
    assert told[-1].value == "and 50 more problems"


def test_problems_are_told_in_the_order_of_lines_however_they_were_found() -> None:
    told = faults(UNKNOWN.replace("mode: alert", "mode: blue").replace("{fire: 2}", "{fire: }"))
    assert [problem.line for problem in told] == sorted(problem.line for problem in told)
    assert {"spec.mode", "spec.detectors[1].threshold.fire"} <= {problem.field for problem in told}


def test_a_long_name_is_not_part_of_the_path_of_all_that_it_holds() -> None:
    name = "k" * (MAX_NAME + 1)
    fields = read_fields(f"{name}: [{'1, ' * 1000}1]\n", "p.yaml")
    assert fields.problems[0].rule == "a field's name has at most 200 characters, this one has 201"
    assert fields.problems[0].field == "k" * 159 + "…"
    assert list(fields.lines) == [""]
    allowed = read_fields(f"{name[1:]}: [1, 1]\n", "p.yaml")
    assert (len(allowed.lines), allowed.problems) == (4, [])


def test_only_so_many_known_names_are_compared_and_only_short_ones_with_them() -> None:
    taken = list[str]()

    def names() -> Iterator[str]:
        for number in range(10_000):
            taken.append(f"name-{number}")
            yield taken[-1]

    assert nearest("name-12a", names()) == "name-12"
    assert len(taken) == 256
    taken.clear()
    assert nearest("n" * 101, names()) is None
    assert taken == []


def test_words_of_a_long_condition_are_found_without_copying_it() -> None:
    class Counted(str):
        copies = 0

        def __getitem__(self, key: Any) -> str:
            Counted.copies += isinstance(key, slice)
            return super().__getitem__(key)

    condition = parse_condition(Counted(" or ".join(["a.fire"] * 60) + "  "))
    assert (condition.detectors, Counted.copies) == (("a",), 0)


def test_a_long_value_is_shortened_from_its_beginning() -> None:
    assert shorten("x" * 81) == "x" * 79 + "…"
    assert shorten(" " * 50 + "x") == "x"
    assert shorten(" " * 10_000 + "x") == "…"


DEEP = {
    "brackets": "[" * 10_000,
    "braces": "{a: " * 10_000,
    "dashes": "- " * 10_000,
    "keys in keys": "? " * 10_000,
    "indentation": "".join(" " * depth + "a:\n" for depth in range(200)),
}
ODD = {
    "an anchor of anchors": "a: &a [x]\nb: &b [*a, *a]\nc: [*b, *b]\n",
    "a merged block": "base: &b {x: 1}\nspec: {<<: *b}\n",
    "many digits": f"metadata: {{name: a, revision: {'9' * 100_000}}}\n",
    "a huge exponent": f"spec: {{detectors: [{{threshold: {{fire: 1e{'9' * 1000}}}}}]}}\n",
    "a long text": f"metadata: {{name: {'x' * 200_000}}}\n",
    "a long quoted text": f"metadata: {{name: '{'x' * 200_000}'}}\n",
    "many documents": "---\na\n" * 1000,
    "many lists": f"spec: [{'[], ' * 3000}]\n",
}


@pytest.mark.parametrize("name", DEEP)
def test_deep_files_are_refused_where_they_become_too_deep(name: str) -> None:
    (problem,) = faults(DEEP[name])
    assert problem.rule == "blocks are nested at most 24 deep"


@pytest.mark.parametrize("name", ODD)
def test_odd_files_are_refused_in_few_words(name: str) -> None:
    told = faults(ODD[name])
    assert 0 < len(told) <= MOST_PROBLEMS + 1
    assert all(str(problem).isprintable() and len(str(problem)) < 1600 for problem in told)
