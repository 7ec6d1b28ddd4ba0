"""The command in a card is one that the command line takes, with the same settings."""

from __future__ import annotations

import dataclasses
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from monitor.cli import train as train_command
from monitor.cli.main import app
from training import command, run
from training.command import command_line
from training.harvest.config import HarvestConfig
from training.output_config import OutputConfig
from training.trainer.config import TrainConfig

HARVEST = HarvestConfig(
    model="/resolved/folder/of/smollm2",
    data=(Path("my texts/a.jsonl"), Path("../b.txt")),
    hook_points=("resid_post.1", "resid_post.2"),
)


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What `featurewatch train` hands to the training, in place of a training."""
    found: list[Any] = []
    monkeypatch.setattr(train_command, "resolve_model", lambda name: f"/resolved/folder/of/{name}")
    monkeypatch.setattr(run, "train_saes", lambda *configs, **more: found.extend([*configs[:3], more]))
    return found


def _repeat(line: str) -> None:
    words = shlex.split(line)
    assert words[0] == "featurewatch"
    result = CliRunner().invoke(app, words[1:], catch_exceptions=False)
    assert result.exit_code == 0, result.output


def test_every_setting_comes_back(given: list[Any]) -> None:
    """Each field is away from its default, so an option that the command line lacks would show."""
    harvest = dataclasses.replace(
        HARVEST,
        tokens=1234,
        context=64,
        batch_tokens=640,
        chat_share=0.5,
        prompt_tokens=7,
        windows_per_document=3,
        outlier_factor=4.5,
        heldout_share=0.25,
        heldout_tokens=777,
        document_field="part of",
        text_field="body",
        dtype="bfloat16",
        store_dtype="float32",
        shard_rows=99,
        seed=5,
    )
    train = TrainConfig(2, 7, 1.5, 64, 0.01, 0.1, 0.2, 2.0, 0.5, 0.3, 0.08, 5)
    output = OutputConfig(Path("some where/zoo"), "a name", "float32", True, 999, 888)
    for config in (harvest, train, output):
        same = [f.name for f in dataclasses.fields(config) if getattr(config, f.name) == f.default]
        assert same in ([], ["cache"])
    _repeat(command_line("smollm2", harvest, train, output))
    assert dataclasses.replace(given[0], cache=harvest.cache) == harvest
    assert given[1:3] == [train, output]
    assert given[3] == {"model_as_typed": "smollm2"}


@pytest.mark.parametrize("model", ["smollm2", "owner/name", "./my models/folder"])
def test_model_and_out_stay_as_typed(given: list[Any], model: str) -> None:
    line = command_line(model, HARVEST, TrainConfig(), OutputConfig(out=Path("some/zoo folder"), name="n"))
    assert shlex.split(line)[2] == model
    _repeat(line)
    assert given[2].out == Path("some/zoo folder")
    assert given[0].data == HARVEST.data
    assert given[3] == {"model_as_typed": model}


def test_an_out_that_is_the_default_is_written_too(given: list[Any]) -> None:
    """The command line has no default for it."""
    _repeat(command_line("m", HARVEST, TrainConfig(), OutputConfig()))
    assert given[2].out == OutputConfig().out


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_auto_is_written_as_what_it_was(monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype) -> None:
    monkeypatch.setattr(command, "forward_dtype", lambda name, _device: dtype)
    words = shlex.split(command_line("m", HARVEST, TrainConfig(), OutputConfig()))
    assert words[words.index("--dtype") + 1] == str(dtype).removeprefix("torch.")
