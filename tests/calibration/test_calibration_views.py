"""A report on the terminal and as a page: what a reader must not miss."""

from __future__ import annotations

import dataclasses
import io
import re

import numpy as np
import pytest
from calibration_samples import generations, policy
from rich.console import Console

from monitor.calibration.generation import Generation
from monitor.calibration.holdout import split
from monitor.calibration.labelled import Labelled
from monitor.calibration.report import Data, Report
from monitor.calibration.run import Origin, calibrate
from monitor.calibration.settings import Settings
from monitor.cli.calibration.charts import roc_chart
from monitor.cli.calibration.page import page
from monitor.cli.calibration.tables import show

LONG = "a_source_with_a_name_that_is_rather_long"
LABELLED = Labelled(
    given=100, unknown=(), not_taken=0, harmful=100, flagged=90, outside=10, outside_unflagged=0, benign=0, unread=700
)  # fmt: skip


def report(held: tuple[str, ...] = (), labels: Labelled | None = None) -> Report:
    rng = np.random.default_rng(0)

    def of(source: str, shift: float, *, harmful: bool = False) -> list[Generation]:
        scores = {"a": rng.normal(shift, 1, 200), "b": rng.normal(shift, 1, 200)}
        return generations(scores, source=source, harmful=harmful)

    parts = [*of("plain", 0), *of(LONG, 0), *of("harder", 2), *of("plain", 3, harmful=True)]
    origin = Origin("test", {}, Data("benign", "harmful", {}, labels), (), "2026-11-21")
    settings = Settings(target=0.05, resamples=20)
    return calibrate(policy("a.fire or b.fire"), split(parts, 0, held), settings, origin)


def shown(found: Report) -> str:
    out = io.StringIO()
    show(found, Console(file=out, width=100))
    return out.getvalue()


def test_a_promise_that_is_broken_elsewhere_is_told_first() -> None:
    told = page(report((LONG, "harder")))
    assert "On what was kept back this promise does not hold for policy, source harder: see below." in told
    assert told.index("does not hold for policy, source harder") < told.index("Detector a")
    assert "Other traffic may fare differently" in page(report((LONG,)))


def test_a_terminal_of_100_columns_cuts_nothing_off() -> None:
    told = shown(report((LONG, "harder")))
    assert "…" not in told
    assert re.search(r"^ a +10 → \d\.\d+ +\d+ of 200 +\d\.\d\d % .* \(0\.\d+ to [01]\.\d+\) *$", told, re.MULTILINE)
    assert "does not hold: at least" in told


@pytest.mark.parametrize(("labels", "name"), [(None, "recall"), (LABELLED, "of labelled")])
def test_recall_is_called_what_it_is(labels: Labelled | None, name: str) -> None:
    found = report(labels=labels)
    assert re.search(rf"harmful +n +found +{name} +interval", shown(found))
    assert f">{name}</th>" in page(found)
    assert ("of those labelled harmful" in page(found)) == (labels is not None)


def test_a_source_may_be_called_as_the_sum_is() -> None:
    """A file `all.jsonl` gives its rows the source "all"."""
    parts: list[Generation] = []
    for source, benign_score, harmful_score in (("all", 0.0, 9.0), ("whole policy", 0.0, 0.0)):
        parts += generations({"a": np.full(100, benign_score), "b": np.zeros(100)}, source=source)
        parts += generations({"a": np.full(10, harmful_score), "b": np.zeros(10)}, source=source, harmful=True)
    origin = Origin("test", {}, Data("benign", "harmful", {}, None), (), "2026-11-21")
    found = calibrate(policy("a.fire"), split(parts, 0, ()), Settings(target=0.05, resamples=20), origin)
    told = shown(found)
    assert re.findall(r"^ (whole policy|all) +(\d+) ", told, re.MULTILINE) == [
        *(("whole policy", "200"), ("all", "100"), ("whole policy", "100")),
        *(("all", "20"), ("all", "10"), ("whole policy", "10")),
    ]
    rows = re.findall(r'<th scope="row">(whole policy|all)</th><td>(\d+)</td>', page(found))
    assert rows == [
        *(("whole policy", "200"), ("all", "100"), ("whole policy", "100")),
        *(("all", "20"), ("all", "10"), ("whole policy", "10")),
    ]


@pytest.mark.parametrize(("categories", "row"), [(24, "plain / kind 7"), (25, "plain / kind 7"), (26, "plain")])
def test_many_categories_are_told_by_source_on_the_terminal_and_one_by_one_on_the_page(
    categories: int, row: str
) -> None:
    rng = np.random.default_rng(0)
    parts = generations({"a": rng.normal(size=200), "b": rng.normal(size=200)}, source="plain")
    for number in range(categories):
        scores = {"a": np.full(4, 9.0 * (number % 2)), "b": np.zeros(4)}
        harmful = generations(scores, source="plain", harmful=True)
        parts += [dataclasses.replace(one, category=f"kind {number}") for one in harmful]
    origin = Origin("test", {}, Data("benign", "harmful", {}, None), (), "2026-11-21")
    found = calibrate(policy("a.fire"), split(parts, 0, ()), Settings(target=0.05, resamples=20), origin)
    told = shown(found)
    by_source = found.sample.recall_by_source["plain"]
    assert (by_source.n, by_source.hits) == (4 * categories, 4 * (categories // 2))
    assert re.search(rf"^ {row} +[0-9]+ ", told.partition(" harmful ")[2], re.MULTILINE)
    assert ("kind 7" in told) == (categories <= 25)
    assert (f"By {categories} categories: with --report or --json." in told) == (categories > 25)
    assert "plain / kind 7" in page(found)


def test_many_sources_without_categories_are_all_told() -> None:
    parts = generations({"a": np.zeros(200), "b": np.zeros(200)})
    for number in range(30):
        parts += generations({"a": [9.0], "b": [0.0]}, source=f"source {number}", harmful=True)
    origin = Origin("test", {}, Data("benign", "harmful", {}, None), (), "2026-11-21")
    told = shown(calibrate(policy("a.fire"), split(parts, 0, ()), Settings(target=0.05, resamples=20), origin))
    assert "source 29" in told
    assert "categories" not in told


@pytest.mark.parametrize(("benign", "ticks"), [(47, ["10 %", "100 %"]), (50, ["10 %", "100 %"]), (1000, ["0.1 %"])])
def test_the_left_end_of_a_curve_is_none_at_all(benign: int, ticks: list[str]) -> None:
    """A rate below one generation cannot be told from 0; nothing else is written there."""
    chart = roc_chart("t", [(0.0, 0.5), (1.0, 1.0)], benign=benign, target=0.1, at=(0.0, 0.5))
    labels = dict(re.findall(r'<text x="([\d.]+)" y="193" class="label mid">([^<]*)<', chart))
    assert labels["44"] == "0"
    assert set(ticks) <= set(labels.values())
    assert sorted(labels, key=float)[0] == "44"
    assert float(sorted(labels, key=float)[1]) - 44 > 20
