"""The command in a card is one that the command line takes, with the same settings."""

from __future__ import annotations

import dataclasses
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from monitor.cli.main import app
from monitor.cli.train import command as train_command
from training import run
from training.command import command_line
from training.settings import run_config as run_config_module
from training.settings.keys import Key, all_keys
from training.settings.run_config import RunConfig, run_config
from training.settings.yaml_file import settings_text

VALUES: dict[str, Any] = {
    "data": [Path("my texts/a.jsonl"), Path("../b.txt")],
    "hook_point": ["resid_post.1", "resid_post.2"],
}
CHOICES = {"dtype": "bfloat16", "store_dtype": "float32", "weights_dtype": "float32", "layout": "latents"}
# Settings that only go with others.
TOGETHER = {"activations": "vllm", "engine_args": '{"max_num_seqs": 8}', "inference": "threshold"}


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> list[RunConfig]:
    """What `featurewatch train` hands to the training, in place of a training."""
    found: list[RunConfig] = []
    monkeypatch.setattr(train_command, "resolve_model", lambda name: f"/resolved/folder/of/{name}")
    monkeypatch.setattr(run, "train_saes", lambda config, _console: found.append(config))
    return found


def _config(values: dict[str, Any], model: str = "smollm2", entries: tuple[dict[str, Any], ...] = ()) -> RunConfig:
    return run_config(f"/resolved/folder/of/{model}", values, entries, model_as_typed=model)


def _repeat(line: str) -> None:
    words = shlex.split(line)
    assert words[0] == "featurewatch"
    result = CliRunner().invoke(app, words[1:], catch_exceptions=False)
    assert result.exit_code == 0, result.output


def _same(first: RunConfig, second: RunConfig) -> None:
    dtype, cache = second.harvest.dtype, second.harvest.cache
    assert dataclasses.replace(first.harvest, dtype=dtype, cache=cache) == second.harvest
    assert (first.train, first.output, first.saes) == (second.train, second.output, second.saes)
    assert first.model_as_typed == second.model_as_typed


def _other(key: Key) -> Any:
    """A good value that is not the default."""
    if key.name in TOGETHER:
        return TOGETHER[key.name]
    if choices := {"dtype": "bfloat16", "store_dtype": "float32", "weights_dtype": "float32", "layout": "latents"}.get(
        key.name
    ):
        return choices
    if key.type is bool:
        return not key.default
    if key.type is int:
        return 99 + (key.default or 0)
    if key.type is float:
        return (key.default or 1.0) / 2
    return Path("some where") if key.type is Path else "a name"


def _away_from_default(architecture: str) -> dict[str, Any]:
    values = {}
    for name, key in all_keys().items():
        # Packed windows go with none of the settings of windows.
        is_common = not key.architectures and name not in ("architecture", "cache", "packing", *VALUES)
        # Texts of an architecture's own have values of their own.
        if is_common or (architecture in key.architectures and key.type is not str):
            values[name] = [_other(key)] if key.is_list else _other(key)
    return {**values, **VALUES, "architecture": architecture}


@pytest.mark.parametrize("architecture", ["batchtopk", "jumprelu", "topk"])
def test_every_setting_comes_back(given: list[RunConfig], architecture: str, tmp_path: Path) -> None:
    """Each setting is away from its default, so an option that the command line or the file lacks would show."""
    values = _away_from_default(architecture)
    if architecture != "topk":
        values["inference"] = "auto"
    config = _config(values)
    _repeat(command_line(config))
    _same(config, given[0])
    file = tmp_path / "run.yaml"
    file.write_text(settings_text("smollm2", config.to_repeat()))
    _repeat(shlex.join(["featurewatch", "train", "--config", str(file)]))
    _same(config, given[1])


@pytest.mark.parametrize("model", ["smollm2", "owner/name", "./my models/folder"])
def test_model_and_out_stay_as_typed(given: list[RunConfig], model: str) -> None:
    line = command_line(_config({**VALUES, "out": Path("some/zoo folder"), "name": "n"}, model))
    assert shlex.split(line)[2] == model
    _repeat(line)
    assert given[0].output.out == Path("some/zoo folder")
    assert given[0].harvest.data == tuple(VALUES["data"])
    assert given[0].model_as_typed == model


def test_a_sweep_is_repeated_by_its_flags(given: list[RunConfig]) -> None:
    config = _config({**VALUES, "k": [16, 32], "seed": [0, 3], "expansion": 4})
    assert len(config.saes) == 8
    _repeat(command_line(config))
    _same(config, given[0])


def test_a_list_of_saes_is_repeated_from_its_file(given: list[RunConfig], tmp_path: Path) -> None:
    entries = ({"architecture": "topk", "k": 8}, {"architecture": "jumprelu", "hook_point": ["resid_post.2"]})
    config = _config(VALUES, entries=entries)
    assert len(config.saes) == 3
    assert shlex.split(command_line(config))[2:] == ["--config", "run.yaml"]
    file = tmp_path / "run.yaml"
    file.write_text(settings_text("smollm2", config.to_repeat(), config.entries))
    _repeat(shlex.join(["featurewatch", "train", "--config", str(file)]))
    _same(config, given[0])


def test_entries_of_an_architecture_that_is_common_are_repeated(given: list[RunConfig], tmp_path: Path) -> None:
    """The file must not hold settings of the default architecture, which none of its SAEs has."""
    config = _config({**VALUES, "architecture": "jumprelu"}, entries=({"expansion": 4}, {"expansion": 16}))
    file = tmp_path / "run.yaml"
    file.write_text(settings_text("smollm2", config.to_repeat(), config.entries))
    _repeat(shlex.join(["featurewatch", "train", "--config", str(file)]))
    _same(config, given[0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_auto_is_written_as_what_it_was(monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype) -> None:
    monkeypatch.setattr(run_config_module, "forward_dtype", lambda name, _device: dtype)
    words = shlex.split(command_line(_config(VALUES)))
    assert words[words.index("--dtype") + 1] == str(dtype).removeprefix("torch.")
