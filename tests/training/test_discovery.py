"""Discovery on made-up activations, its scores against the policy engine, and its figures."""

from __future__ import annotations

import dataclasses
import io
import json
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from toy_discovery import GUILTY, POINT, SAE, prompts_and_rows, save_toy_sae, toy_config

from monitor.errors import FeaturewatchError
from monitor.policy import parse_policy
from monitor.policy.advice import advice
from monitor.sae import Catalog, HookPoint, load_dense_probe, load_sae_probe
from training.discovery.capture import capture
from training.discovery.config import DiscoverConfig
from training.discovery.judged import OneSae, judge
from training.discovery.prompt import Prompt
from training.discovery.prompts import load_prompts
from training.discovery.report import Report
from training.discovery.run import discover_from_rows, discover_policy


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_toy_sae(tmp_path_factory.mktemp("zoo"))


@pytest.fixture(scope="module")
def found(zoo: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[DiscoverConfig, Report]:
    prompts, rows = prompts_and_rows()
    config = toy_config(tmp_path_factory.mktemp("policies"), target_fpr=0.02, hard=("a1",), subject="toy harm")
    config = dataclasses.replace(config, owner="toy-oncall")
    return config, discover_from_rows(config, Catalog([zoo]), prompts, rows, Console(file=io.StringIO()))


def test_the_separating_latent_is_found_and_the_policy_keeps_its_rate(found: tuple[DiscoverConfig, Report]) -> None:
    prompts, _ = prompts_and_rows()
    config, report = found
    folder = config.policy_out.parent
    policy = parse_policy(config.policy_out.read_text(), "toy-harm.yaml")
    latents = next(d for d in policy.document.spec.detectors if d.id == "latents").source.sae_latents
    assert latents is not None
    assert latents.latents[0].index == GUILTY
    assert latents.latents[0].label is not None
    assert latents.latents[0].label.startswith("separates toy harms, train AUROC 0.9")
    assert report.auroc[SAE]["dense"] > 0.95
    assert report.policy.n == sum(p.is_val and not p.is_positive for p in prompts)
    assert not report.is_shown
    assert report.policy.hits <= 0.02 * report.policy.n
    assert report.policy.rate < report.policy.upper < 0.1
    assert report.recall > 0.8
    assert set(report.negatives_by_source) == {"a0", "a1", "a2"}
    assert report.hard is not None
    assert report.hard.n == report.negatives_by_source["a1"].n
    dense = load_dense_probe(folder / "weights" / "toy-harm.dense.safetensors")
    assert int(np.argmax(dense.weight_d)) == GUILTY
    assert GUILTY in load_sae_probe(folder / "weights" / "toy-harm.sae.safetensors").latents_k
    stored = json.loads((folder / "weights" / "toy-harm.report.json").read_text())
    assert stored["false_alarms_val"]["policy"]["hits"] == report.policy.hits
    calibration = {d.id: d.calibration for d in policy.document.spec.detectors}
    assert calibration["dense"] is not None
    assert calibration["dense"].n == report.policy.n
    assert calibration["dense"].harmful == f"prompts.jsonl (val positives)@sha256:{report.data_sha256}"
    assert (calibration["dense"].recall or 0) > 0.8
    assert calibration["dense"].date is not None
    # 90 negatives cannot show 2 %, so the file states what they do show, and the policy stays in shadow.
    assert all(found is not None and 0.02 < found.target_fpr < 0.1 for found in calibration.values())
    assert not [told for told in advice(policy, "2026-01-01") if "calibration" in told.field]
    assert policy.document.spec.mode == "shadow"
    assert "too few to promise" in (policy.document.metadata.description or "")
    assert (policy.revision, policy.document.metadata.owner) == (1, "toy-oncall")
    assert "over-optimistic" in (policy.document.metadata.description or "")
    assert "prompt 1" not in config.policy_out.read_text()


def test_engine_flags_what_the_report_counts(zoo: Path, found: tuple[DiscoverConfig, Report]) -> None:
    """Judging single prompts again with the written files gives the report's counts."""
    prompts, rows = prompts_and_rows()
    config, report = found
    policy = parse_policy(config.policy_out.read_text(), "toy-harm.yaml")
    sources = OneSae(SAE, Catalog([zoo]).load(SAE), config.policy_out.parent)
    flagged = 0
    for index, prompt in enumerate(prompts):
        if prompt.is_val and not prompt.is_positive:
            part = rows.residuals[POINT][rows.starts_p1[index] : rows.starts_p1[index + 1]]
            flagged += bool(judge(policy, sources, part, np.array([0, len(part)])).flagged_p[0])
    assert flagged == report.policy.hits


def test_captured_rows_are_the_content_tokens(tiny_model: Path, tmp_path: Path) -> None:
    config = toy_config(tmp_path, model=str(tiny_model), cache=tmp_path / "captured")
    prompts = [Prompt("boats carry bread", True, False), Prompt("salt", False, False)]
    rows = capture(config, [HookPoint(1)], prompts)
    assert np.diff(rows.starts_p1).tolist() == [17, 4]  # one token per byte; header, system turn and markers left out
    again = capture(config, [HookPoint(1)], prompts)
    np.testing.assert_array_equal(rows.residuals[HookPoint(1)], again.residuals[HookPoint(1)])
    alone = capture(dataclasses.replace(config, cache=None), [HookPoint(1)], prompts[1:])
    np.testing.assert_allclose(rows.residuals[HookPoint(1)][17:], alone.residuals[HookPoint(1)], rtol=1e-4, atol=1e-4)


def test_an_sae_of_another_width_is_told(zoo: Path, tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(FeaturewatchError, match=r"resid_post.2 of width 24: the residual stream .* has width 32"):
        discover_policy(toy_config(tmp_path, model=str(tiny_model)), Catalog([zoo]), Console(file=io.StringIO()))


def test_an_unknown_sae_is_told_with_the_nearest_one(zoo: Path, tmp_path: Path) -> None:
    with pytest.raises(FeaturewatchError, match=r"Did you mean 'toy/resid_post\.2'"):
        discover_policy(toy_config(tmp_path, saes=("toy/resid_post.3",)), Catalog([zoo]), Console(file=io.StringIO()))


def _write(path: Path, rows: list[dict[str, object]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_prompts_are_kept_and_capped(tmp_path: Path) -> None:
    rows = [
        {
            "text": f"{split} {label} {source} {n}",
            "label": label,
            "split": split,
            "source": source,
            "category": f"c{n % 2}",
        }
        for split in ("train", "val")
        for label in (0, 1)
        for source in ("x", "y")
        for n in range(6)
    ]
    config = toy_config(tmp_path, data=(_write(tmp_path / "p.jsonl", rows),), keep=("x=c1",), cap=("y=2",))
    prompts = load_prompts(config)
    assert {p.category for p in prompts if p.source == "x"} == {"c1"}
    assert sum(p.source == "y" and p.is_val and p.is_positive for p in prompts) == 2
    assert [p.text for p in prompts] == [p.text for p in load_prompts(config)]


def test_two_text_files(tmp_path: Path) -> None:
    good, bad = tmp_path / "good.txt", tmp_path / "bad.txt"
    good.write_text("".join(f"good {n}\n" for n in range(60)))
    bad.write_text("".join(f"bad {n}\n" for n in range(60)))
    prompts = load_prompts(toy_config(tmp_path, data=(), positive=bad, negative=good))
    assert len(prompts) == 120
    assert all(prompt.is_positive == prompt.text.startswith("bad") for prompt in prompts)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"text": "a", "label": 2, "split": "train"}], r"p.jsonl:1 with label 2"),
        ([{"text": "a", "label": 1, "split": "train"}], "split train holds no prompt with label 0"),
    ],
)
def test_bad_prompts_are_told(tmp_path: Path, rows: list[dict[str, object]], message: str) -> None:
    with pytest.raises(FeaturewatchError, match=message):
        load_prompts(toy_config(tmp_path, data=(_write(tmp_path / "p.jsonl", rows),)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"saes": ()}, "at least one is needed"),
        ({"data": ()}, "--data or from --positive and --negative"),
        ({"target_fpr": 0.5}, "a warning comes no later than a firing"),
    ],
)
def test_settings_out_of_range_are_told(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    with pytest.raises(FeaturewatchError, match=message):
        toy_config(tmp_path, **changes)
