"""The command in a card names the model as the command line knows it."""

from __future__ import annotations

from pathlib import Path

import pytest

from training.command import command_line
from training.harvest.config import HarvestConfig
from training.output_config import OutputConfig
from training.trainer.config import TrainConfig


@pytest.mark.parametrize(
    ("model", "word"),
    [("/some/cache/models/smollm2-135m-instruct", "smollm2"), ("owner/name", "owner/name"), ("/some/folder", "folder")],
)
def test_the_model_can_be_given_again(model: str, word: str) -> None:
    harvest = HarvestConfig(model=model, data=(Path("a.jsonl"),), hook_points=("resid_post.1",))
    assert command_line(harvest, TrainConfig(), OutputConfig()).split()[2] == word
