"""A policy against the dictionaries, probes and model it is meant for."""

from __future__ import annotations

import dataclasses

import pytest
from policy_samples import GOOD, FakeSources

from monitor.policy import DenseProbeInfo, Policy, Problem, SaeInfo, SaeProbeInfo, check_policy, parse_policy

SAE = "tiny/resid_post.14"


def policy(before: str = "", after: str = "") -> Policy:
    assert before in GOOD
    return parse_policy(GOOD.replace(before, after, 1) if before else GOOD, "p.yaml")


def only_problem(found: list[Problem]) -> Problem:
    assert len(found) == 1, found
    assert found[0].file == "p.yaml"
    assert found[0].remedy
    return found[0]


def test_a_policy_that_fits_has_no_problems() -> None:
    assert check_policy(policy(), FakeSources(), num_layers=30, width=8, model="tiny") == []
    assert check_policy(policy("hook: resid_post.14", f"sae: sha256:{'a' * 64}"), FakeSources()) == []


@pytest.mark.parametrize(
    ("before", "after", "field"),
    [
        (f"sae: {SAE}", "sae: tiny/resid_post.15", "spec.detectors[0].source.saeLatents.sae"),
        ("weights/harm.sae", "weights/ham.sae", "spec.detectors[1].source.saeProbe.file"),
        ("weights/harm.dense", "weights/ham.dense", "spec.detectors[2].source.denseProbe.file"),
    ],
)
def test_unknown_sources_are_told_as_the_source_tells_them(before: str, after: str, field: str) -> None:
    problem = only_problem(check_policy(policy(before, after), FakeSources()))
    assert problem.field == field
    assert problem.rule == "there is no such thing"
    assert problem.line == 1 + GOOD[: GOOD.index(before)].count("\n")


def test_a_latent_outside_of_the_sae() -> None:
    problem = only_problem(check_policy(policy("{index: 2}", "{index: 10}"), FakeSources()))
    assert problem.field == "spec.detectors[0].source.saeLatents.latents[1].index"
    assert (problem.value, problem.rule) == ("10", f"SAE {SAE} has latents 0 to 9")


@pytest.mark.parametrize("second", ["{label: weapons}", "{label: weapons, weight: 2}"])
def test_a_latent_that_is_named_twice_by_index_and_by_label(second: str) -> None:
    problem = only_problem(check_policy(policy("{index: 2}", second), FakeSources()))
    assert problem.field == "spec.detectors[0].source.saeLatents.latents[1].label"
    assert (problem.value, problem.rule) == ("weapons", "it is latent 7, which latents[0] names already")


def test_a_label_that_the_catalog_lacks() -> None:
    problem = only_problem(check_policy(policy("{index: 2}", "{label: kindness}"), FakeSources()))
    assert problem.field == "spec.detectors[0].source.saeLatents.latents[1].label"
    assert check_policy(policy("{index: 2}", "{label: lies}"), FakeSources()) == []


def test_a_probe_on_latents_that_its_sae_lacks_or_on_an_unknown_sae() -> None:
    sources = FakeSources()
    (file,) = sources.probes
    sources.probes[file] = SaeProbeInfo(SAE, (7, 10, -1), (1.0, 1.0, 1.0), 0.0, "d" * 64)
    assert [p.value for p in check_policy(policy(), sources)] == ["10", "-1"]
    sources.probes[file] = SaeProbeInfo("gone", (7,), (1.0,), 0.0, "d" * 64)
    assert only_problem(check_policy(policy(), sources)).value == "SAE 'gone'"


def test_hook_points_that_the_model_lacks() -> None:
    found = check_policy(policy(), FakeSources(), num_layers=14, model="tiny")
    assert [p.field for p in found] == [
        "spec.detectors[0].source.saeLatents.sae",
        "spec.detectors[1].source.saeProbe.file",
    ]
    assert found[0].rule == "it reads resid_post.14, and tiny has layers 0 to 13"
    assert len(check_policy(policy(), FakeSources(), num_layers=9)) == 3


def test_widths_that_do_not_fit_the_model() -> None:
    found = check_policy(policy(), FakeSources(), width=16, model="tiny")
    assert len(found) == 3
    assert found[0].rule == "it has width 8, and the residual stream of tiny has width 16"
    sources = FakeSources()
    (file,) = sources.dense
    sources.dense[file] = DenseProbeInfo("resid_post.9", 16, "c" * 64)
    assert only_problem(check_policy(policy(), sources, width=8)).value == file


def test_thresholds_fitted_on_another_sae_or_hook() -> None:
    stale = policy("hook: resid_post.14", f"sae: sha256:{'f' * 64}")
    problem = only_problem(check_policy(stale, FakeSources()))
    assert problem.field == "spec.fittedOn.sae"
    assert "a" * 64 in problem.rule
    problem = only_problem(check_policy(policy("hook: resid_post.14", "hook: resid_post.3"), FakeSources()))
    assert (problem.field, problem.rule) == ("spec.fittedOn.hook", "the detectors read resid_post.9, resid_post.14")


def test_all_problems_are_told_in_order_of_lines() -> None:
    sources = FakeSources(dense={})
    sources.saes[SAE] = dataclasses.replace(sources.saes[SAE], width=4)
    found = check_policy(policy("{index: 2}", "{index: 99}"), sources, width=8)
    assert [p.field.rpartition(".")[2] for p in found] == ["sae", "index", "file", "file"]
    assert [p.line for p in found] == sorted(p.line for p in found)


def test_every_occurrence_is_checked_with_the_sources_of_that_moment() -> None:
    sources = FakeSources(saes={SAE: SaeInfo("resid_post.14", 3, 8, "a" * 64)})
    assert [p.value for p in check_policy(policy(), sources)] == ["7", "7", "5"]
