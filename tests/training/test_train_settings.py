"""Settings of a run: files with the line of every mistake, sweeps with names, flags that belong to an architecture."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.command import Command
from typer.testing import CliRunner

from monitor.cli.main import app
from monitor.errors import FeaturewatchError
from training import plan
from training.architectures.registry import ARCHITECTURES
from training.settings.keys import all_keys
from training.settings.run_config import merged, run_config
from training.settings.sweep import sweep
from training.settings.yaml_file import read_settings, settings_text

POINT = {"hook_point": ["resid_post.1"]}


def _file(folder: Path, text: str) -> Path:
    path = folder / "run.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("k: 3\nbatch_row: 64\n", r"run.yaml:2: batch_row: there is no such setting. Did you mean batch_rows\?$"),
        ("zzz: 1\n", r"run.yaml:1: zzz: there is no such setting. `featurewatch train --print-config` prints"),
        ("\ntokens: many\n", r"run.yaml:2: tokens 'many': it must be a whole number. Give for example 4000000"),
        ("tokens: 1.5\n", r"tokens 1.5: it must be a whole number"),
        ("tokens: true\n", r"tokens True: it must be a whole number"),
        ("replace: 1\n", r"replace 1: it must be true or false. Give for example false"),
        ("dtype: 32\n", r"dtype 32: it must be a text"),
        ("learning_rate: fast\n", r"learning_rate 'fast': it must be a number"),
        ("tokens: [1, 2]\n", r"tokens \[1, 2\]: it takes one value"),
        ("k: 1\nk: 2\n", r"run.yaml:2: k: it is given at .*run.yaml:1 already"),
        ("model: 3\n", r"model 3: it must be a text"),
        ("- k\n", r"run.yaml:1: settings are written `name: value`"),
        ("saes: 3\n", r"run.yaml:1: saes: it is a list of SAEs"),
        ("saes:\n  - k: 3\n  - tokens: 5\n", r"run.yaml:3: tokens: it is the same for all SAEs of a run"),
        ("saes:\n  - architectur: topk\n", r"run.yaml:2: architectur: there is no such setting. Did you mean archit"),
        ("k: {a: [\n", r"it must be a YAML file"),
    ],
)
def test_a_mistake_in_a_file_is_told_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(FeaturewatchError, match=message) as told:
        read_settings(_file(tmp_path, text))
    assert told.value.remedy


def test_numbers_as_people_write_them(tmp_path: Path) -> None:
    """YAML 1.1 takes 1e-3 for a text."""
    held = read_settings(_file(tmp_path, "learning_rate: 1e-3\ntokens: 4_000\nclip: 1\nlog_steps: null\nk: [16, 32]\n"))
    assert held.values == {"learning_rate": 1e-3, "tokens": 4000, "clip": 1.0, "k": [16, 32]}


def test_every_combination_is_an_sae() -> None:
    saes = sweep({**POINT, "architecture": ["topk", "jumprelu"], "k": [8, 16], "target_l0": 9.0, "seed": [0, 1]})
    names = [
        "resid_post.1/topk-x8-k8-s0",
        "resid_post.1/topk-x8-k8-s1",
        "resid_post.1/topk-x8-k16-s0",
        "resid_post.1/topk-x8-k16-s1",
        "resid_post.1/jumprelu-x8-target-l09-s0",
        "resid_post.1/jumprelu-x8-target-l09-s1",
    ]
    assert sorted(saes) == sorted(names)
    assert saes[names[3]].settings.k == 16
    assert saes[names[3]].options.seed == 1


def test_one_sae_a_hook_point_has_its_name() -> None:
    assert list(sweep({"hook_point": ["resid_post.2", "mlp_out.1"]})) == ["resid_post.2", "mlp_out.1"]


def test_what_differs_is_in_the_name() -> None:
    saes = sweep({**POINT, "aux_weight": [0.0, 0.5], "latents": 64})
    assert list(saes) == [
        "resid_post.1/batchtopk-m64-k32-aux-weight0-s0",
        "resid_post.1/batchtopk-m64-k32-aux-weight0.5-s0",
    ]
    names = sweep({**POINT, "architecture": "matryoshka", "latents": 64, "groups": ["1/2,1/2", "1/4,3/4"]})
    assert "resid_post.1/matryoshka-m64-k32-groups1_4,3_4-s0" in names  # one folder, not several in one another


def test_entries_override_what_is_common() -> None:
    entries = [{"architecture": "topk", "k": 4}, {"latents": 99, "hook_point": ["resid_post.3"]}]
    saes = list(sweep({**POINT, "k": 7, "seed": 5}, entries).values())
    assert [(str(sae.hook_point), sae.options.architecture, sae.settings.k, sae.options.seed) for sae in saes] == [
        ("resid_post.1", "topk", 4, 5),
        ("resid_post.3", "batchtopk", 7, 5),
    ]
    config = run_config("model", {**POINT, "data": [Path("a.txt")], "k": 7}, entries)
    assert config.harvest.hook_points == ("resid_post.1", "resid_post.3")


@pytest.mark.parametrize(
    ("values", "entries", "message"),
    [
        ({"target_l0": 5.0}, [], r"target-l0 with architecture batchtopk: that takes .*k.*: jumprelu"),
        ({"architecture": ["topk", "relu"], "groups": "1/2,1/2"}, [], r"groups with architecture relu, topk"),
        ({}, [{"architecture": "jumprelu", "k": 3}], r"here:7: k with architecture jumprelu: that takes"),
        ({"architecture": "top-k"}, [], r"architecture 'top-k': the architectures are"),
    ],
)
def test_a_setting_of_another_architecture_is_refused(
    values: dict[str, Any], entries: list[dict[str, Any]], message: str
) -> None:
    with pytest.raises(FeaturewatchError, match=message):
        sweep({**POINT, **values}, entries, ["here:7"])


def test_a_setting_that_one_of_several_architectures_has_is_taken() -> None:
    assert len(sweep({**POINT, "architecture": ["topk", "jumprelu"], "target_l0": 5.0})) == 2


def test_a_flag_does_not_hide_behind_an_entry(tmp_path: Path) -> None:
    held = read_settings(_file(tmp_path, "tokens: 5\nsaes:\n  - k: 3\n"))
    assert merged(held, {"tokens": 7})["tokens"] == 7
    with pytest.raises(FeaturewatchError, match=r"--k beside a file that sets k of a single SAE \(.*run.yaml:3\)"):
        merged(held, {"k": [4]})


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_printed_settings_are_read_back(tmp_path: Path, architecture: str) -> None:
    """With all defaults in it, the file means what no file means, and every setting has its help."""
    text = settings_text("owner/model", {"architecture": architecture})
    held = read_settings(_file(tmp_path, text))
    assert held.model == "owner/model"
    values = {**held.values, **POINT, "data": [Path("a.txt")]}
    plain = run_config("m", {"architecture": architecture, **POINT, "data": [Path("a.txt")]})
    full = run_config("m", values)
    assert (full.harvest, full.train, full.output, full.saes) == (plain.harvest, plain.train, plain.output, plain.saes)
    for name, key in all_keys().items():
        assert f"\n{name}:" in text or f"\n# {name}:" in text
        assert key.help.split()[0] in text


def test_print_config_takes_file_and_flags(featurewatch: Command, tmp_path: Path) -> None:
    file = _file(tmp_path, "model: smollm2\nk: 5\ntokens: 77\n")
    code, out, _ = featurewatch("train", "--config", str(file), "--tokens", "88", "--print-config")
    assert code == 0
    shown = yaml.safe_load(out)
    assert (shown["model"], shown["k"], shown["tokens"], shown["batch_rows"]) == ("smollm2", 5, 88, 2048)


def test_help_has_a_panel_for_what_belongs_to_an_architecture(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    shown = CliRunner().invoke(app, ["train", "--help"]).output
    for text in ("Architecture jumprelu", "--target-l0", "Text and activations", "--print-config", "-k"):
        assert text in shown


def test_wandb_is_asked_for_and_missing(tiny_model: Path, corpus: Path, tmp_path: Path) -> None:
    words = [
        "train",
        str(tiny_model),
        "--data",
        str(corpus),
        "--hook-point",
        "resid_post.1",
        "--out",
        str(tmp_path / "o"),
    ]
    with pytest.raises(FeaturewatchError, match=r"wandb 'mine': the Python package wandb is not installed"):
        CliRunner().invoke(app, [*words, "--wandb", "mine", "--cache", str(tmp_path / "c")], catch_exceptions=False)
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_tells_and_writes_nothing(
    featurewatch: Command, tiny_model: Path, corpus: Path, tmp_path: Path
) -> None:
    words = ["train", str(tiny_model), "--data", str(corpus), "--out", str(tmp_path / "out"), "--dry-run"]
    sizes = "--tokens 4000 --context 96 --heldout-share 0.4 --heldout-tokens 20000 --batch-rows 64 --dtype float32"
    several = "--hook-point resid_post.1 --hook-point mlp_out.2 -k 4 -k 8 --architecture topk --latents 128"
    code, out, err = featurewatch(*words, *sizes.split(), *several.split(), "--cache", str(tmp_path / "cache"))
    assert code == 0, err
    assert "mlp_out.2/topk-m128-k8-s0" in out
    assert "62 of 64 rows" in out
    assert "4,000 rows harvested into" in out
    assert "Nothing was written." in out
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_refuses_what_the_run_would(tiny_model: Path, corpus: Path, tmp_path: Path) -> None:
    words = ["train", str(tiny_model), "--data", str(corpus), "--hook-point", "resid_post.9", "--dry-run"]
    with pytest.raises(FeaturewatchError, match=r"hook point 'resid_post.9'"):
        CliRunner().invoke(app, [*words, "--cache", str(tmp_path / "c")], catch_exceptions=False)


def test_a_dry_run_asks_for_room_and_packages(
    tiny_model: Path, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1000}))
    sizes = {"tokens": 4000, "context": 96, "heldout_share": 0.4, "heldout_tokens": 20000, "cache": tmp_path / "c"}
    values = {"data": [corpus], "hook_point": ["resid_post.1"], "k": 4, "out": tmp_path / "o", **sizes}
    with pytest.raises(FeaturewatchError, match=r"with 0.0 GB free: 4,000 tokens at 1 hook points need"):
        plan.make_plan(run_config(str(tiny_model), values))
    with pytest.raises(FeaturewatchError, match=r"wandb 'mine': the Python package wandb is not installed"):
        plan.make_plan(run_config(str(tiny_model), {**values, "wandb": "mine"}))


def test_a_plan_counts_every_epoch_of_a_stream_and_checkpoints_while_they_are_replaced(
    tiny_model: Path, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "_rows_per_second", lambda config, prepared: 100.0)
    values = {"data": [corpus], "hook_point": ["resid_post.1"], "latents": 128, "k": [4, 8], "epochs": 2.5}
    sizes = {"tokens": 4000, "context": 96, "heldout_share": 0.4, "heldout_tokens": 20000, "batch_rows": 64}
    places = {"cache": tmp_path / "c", "out": tmp_path / "o"}
    stream, cached = (
        plan.make_plan(run_config(str(tiny_model), {**values, **sizes, **places, "stream": is_stream}))
        for is_stream in (True, False)
    )
    assert stream.harvest_seconds == 156 * 64 / 100
    assert cached.harvest_seconds == 4000 / 100
    weights = 2 * 4 * 128 * 32
    assert stream.disk == 6 * 2 * weights
    assert cached.disk == 4000 * 32 * 2 + weights + 6 * weights


def test_settings_of_a_card_are_json() -> None:
    for sae in sweep({**POINT, "architecture": list(ARCHITECTURES)}).values():
        assert json.loads(json.dumps(sae.as_json()))["architecture"] in ARCHITECTURES
