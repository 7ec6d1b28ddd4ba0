"""`featurewatch train --activations vllm` on a real engine: SAEs of what it computes, and cards that say so."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from support.comparison import TOLERANCE
from support.glassllm import WIDTH, glassllm_folder
from typer.testing import CliRunner

from monitor.cli.main import app
from monitor.errors import FeaturewatchError
from monitor.sae import HookPoint, load_saelens
from training.card.card import Card
from training.harvest.cache import ActivationCache
from training.harvest.config import HarvestConfig
from training.harvest.engine_start import engine_version
from training.harvest.run import harvest

pytestmark = pytest.mark.engine

POINTS = ("resid_pre.2", "resid_post.2")


@pytest.fixture(scope="module")
def model(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """glassllm, whose heads vLLM's CPU kernels can take, with the tiny model's tokenizer."""
    folder = tmp_path_factory.mktemp("glassllm") / "model"
    shutil.copytree(glassllm_folder(), folder)
    for path in tiny_model.glob("*token*"):
        shutil.copy(path, folder)
    for path in tiny_model.glob("*.jinja"):
        shutil.copy(path, folder)
    return folder


def test_an_sae_is_trained_on_the_rows_that_the_engine_computes(
    model: Path, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLLM_CACHE_ROOT", str(tmp_path / "vllm"))
    environment = dict(os.environ)
    sizes = "--tokens 6000 --context 96 --batch-tokens 768 --heldout-share 0.3 --heldout-tokens 4000 --dtype float32"
    sizes += " --store-dtype float32 --shard-rows 2000 --expansion 2 --k 8 --epochs 3 --batch-rows 128"
    sizes += " --card-tokens 3000 --loss-tokens 300 --threshold-tolerance 0.5 --activations vllm"
    points = [word for point in POINTS for word in ("--hook-point", point)]
    places = ["--data", str(corpus), "--out", str(tmp_path / "zoo"), "--cache", str(tmp_path / "engine")]
    arguments = ["train", str(model), *points, *places, *sizes.split()]
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    assert {name: os.environ.get(name) for name in environment} == environment
    assert not [name for name in os.environ.keys() - environment.keys() if name.startswith("VLLM_")]

    for point in POINTS:
        assert load_saelens(tmp_path / "zoo" / point).width == WIDTH
        card = Card.load(tmp_path / "zoo" / point)
        assert card.settings["harvest"]["activations"] == "vllm"
        assert card.settings["made_from"]["engine"] == f"vLLM {engine_version()}"
        assert card.settings["engine"]["dtype"] == "float32"
        assert "training activations | vLLM 0.32" in (tmp_path / "zoo" / point / "card.md").read_text()
        assert "activations" in card.command or "vllm" in (tmp_path / "zoo" / point / "run.yaml").read_text()

    manifest = json.loads((tmp_path / "engine" / "manifest.json").read_text())
    settings = {key: manifest["settings"][key] for key in ("tokens", "context", "batch_tokens", "heldout_share")}
    config = HarvestConfig(
        **settings,
        model=str(model),
        data=(corpus,),
        hook_points=POINTS,
        cache=tmp_path / "huggingface",
        heldout_tokens=4000,
        shard_rows=2000,
        dtype="float32",
        store_dtype="float32",
    )
    assert harvest(config).counts == manifest["counts"]
    for point in map(HookPoint.parse, POINTS):
        engine_nd, truth_nd = (_rows(tmp_path / name, point) for name in ("engine", "huggingface"))
        assert engine_nd.shape == truth_nd.shape
        error_n = np.linalg.norm(engine_nd - truth_nd, axis=1) / np.linalg.norm(truth_nd, axis=1)
        assert 0 < error_n.max() <= TOLERANCE, "other rows, or not another engine's"
    with pytest.raises(FeaturewatchError, match=r"other settings \(activations\)"):
        harvest(HarvestConfig(**{**vars(config), "cache": tmp_path / "engine"}))


def _rows(cache: Path, point: HookPoint) -> np.ndarray:
    return np.concatenate(list(ActivationCache(cache).batches(point, 1, seed=0)))
