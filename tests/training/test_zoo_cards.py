"""The cards of the SAEs that come with the project are whole and say how they were made."""

from __future__ import annotations

import dataclasses
import shlex
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from monitor.cli.main import app
from monitor.cli.train import command as train_command
from monitor.sae import load_saelens
from training import run
from training.card.card import Card
from training.harvest.config import HarvestConfig

ZOO = Path(__file__).parents[2] / "zoo"
FOLDERS = sorted(path.parent for path in ZOO.glob("*/*/card.json"))


def test_there_are_some() -> None:
    assert len(FOLDERS) >= 2


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_text_and_figures_are_of_one_card_and_of_these_weights(folder: Path) -> None:
    card = Card.load(folder)
    assert (folder / "card.md").read_text() == card.markdown()
    assert card.sha256 == load_saelens(folder).sha256


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_the_split_that_is_stated_is_the_one_of_the_command(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    card = Card.load(folder)
    assert (
        "Documents are held out\nwhole, by a hash of their source and their name in the field `doc`" in card.markdown()
    )
    given: list[Any] = []
    monkeypatch.setattr(train_command, "resolve_model", lambda name: f"/models/{name}")
    monkeypatch.setattr(run, "train_saes", lambda config, _console: given.append(config))
    result = CliRunner().invoke(app, shlex.split(card.command)[1:], catch_exceptions=False)
    assert result.exit_code == 0
    harvest = given[0].harvest
    assert harvest.document_field == "doc"
    assert harvest.dtype == card.harvest_dtype
    stated = card.settings["harvest"]
    for field in dataclasses.fields(HarvestConfig):
        if field.name in stated and field.name not in ("model", "data", "dtype", "hook_points"):
            assert getattr(harvest, field.name) == stated[field.name], field.name
    assert [path.name for path in harvest.data] == stated["data"]
    assert list(harvest.hook_points) == stated["hook_points"]
    (sae,) = [sae for sae in given[0].saes.values() if str(sae.hook_point) == card.hook_point]
    meant = {**dataclasses.asdict(given[0].train), **sae.as_json()}
    for name, value in card.settings["training"].items():
        assert meant[name] == value, name


def test_a_card_states_its_document_field() -> None:
    card = Card.load(FOLDERS[0])
    harvest = {**card.settings["harvest"], "document_field": "book"}
    text = dataclasses.replace(card, settings={**card.settings, "harvest": harvest}).markdown()
    assert "by a hash of their source and their name in the field `book`" in text
    assert "not by its own hash" not in text
