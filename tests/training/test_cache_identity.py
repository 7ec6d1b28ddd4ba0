"""A cache is used again only for the same model, tokenizer, chat template and data, whatever their names."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from toy_discovery import toy_config

from monitor.errors import FeaturewatchError
from monitor.sae import HookPoint
from training.discovery.capture import capture
from training.discovery.prompt import Prompt
from training.harvest import prepare as harvest_prepare
from training.harvest.cache import ActivationCache
from training.harvest.config import HarvestConfig
from training.harvest.lock import cache_lock
from training.harvest.run import harvest
from training.identity import model_sha256
from training.trainer.config import TrainConfig
from training.trainer.rows import CacheRows
from training.trainer.sae_config import SaeConfig, SaeOptions
from training.trainer.train import FINISHED, TRAINER_REVISION, settings_of, train_saes_on

POINT = HookPoint(1)


@pytest.fixture
def config(tiny_model: Path, corpus: Path, tmp_path: Path) -> HarvestConfig:
    """Copies of model and data that a test may change, and a finished cache of them."""
    shutil.copytree(tiny_model, tmp_path / "model")
    shutil.copy(corpus, tmp_path / "corpus.jsonl")
    made = HarvestConfig(
        model=str(tmp_path / "model"),
        data=(tmp_path / "corpus.jsonl",),
        hook_points=(str(POINT),),
        cache=tmp_path / "cache",
        tokens=800,
        context=64,
        batch_tokens=256,
        heldout_share=0.3,
        dtype="float32",
    )
    harvest(made)
    return made


def _change_one_weight(folder: Path) -> None:
    """In the last layer, which is not even run; name, size and time of the file stay."""
    path = folder / "model" / "model.safetensors"
    times = path.stat()
    tensors = load_file(path)
    tensors["model.layers.3.mlp.down_proj.weight"][5, 7] += 0.5
    save_file(tensors, path, metadata={"format": "pt"})
    assert path.stat().st_size == times.st_size
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def _change_config(folder: Path) -> None:
    path = folder / "model" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "rms_norm_eps": 1e-5}))


def _change_template(folder: Path) -> None:
    for path in (folder / "model").glob("*"):
        if path.suffix in (".json", ".jinja"):
            path.write_text(path.read_text().replace("You are a test", "You are a pest"))


def _change_data(folder: Path) -> None:
    path = folder / "corpus.jsonl"
    path.write_text(path.read_text().replace("river", "rover"))


CHANGES = [
    (_change_one_weight, "another model than the one given now"),
    (_change_config, "another model than the one given now"),
    (_change_template, "another tokenizer or chat template than"),
    (_change_data, "another data file than"),
]


@pytest.mark.parametrize(("change", "message"), CHANGES)
def test_other_content_under_the_same_name_is_refused(
    config: HarvestConfig, change: Callable[[Path], None], message: str
) -> None:
    rows = ActivationCache(config.cache).manifest.rows
    change(config.cache.parent)
    with pytest.raises(FeaturewatchError, match=message + r".*Give another --cache folder or remove this one"):
        harvest(config)
    assert ActivationCache(config.cache).manifest.rows == rows  # nothing of it was removed


def test_the_same_content_in_another_place_is_the_same(config: HarvestConfig, tmp_path: Path) -> None:
    before = (config.cache / "manifest.json").stat().st_mtime_ns
    shutil.copytree(config.model, tmp_path / "another name")
    data = Path(shutil.copy(config.data[0], tmp_path / "another name.jsonl"))
    harvest(dataclasses.replace(config, model=str(tmp_path / "another name"), data=(data,)))
    assert (config.cache / "manifest.json").stat().st_mtime_ns == before


@pytest.mark.parametrize("sharded", [False, True])
def test_the_weights_of_an_id_are_fetched_and_hashed(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sharded: bool
) -> None:
    """Before its download only the configuration of an id is there, and two models may share one."""
    hub, fetched = tmp_path / "hub", []
    shutil.copytree(tiny_model, hub)
    if sharded:
        (hub / "model.safetensors").rename(hub / "model-00001-of-00001.safetensors")
        index = {"weight_map": {"lm_head.weight": "model-00001-of-00001.safetensors"}}
        (hub / "model.safetensors.index.json").write_text(json.dumps(index))

    def cached_file(model: str, name: str, **_: object) -> str | None:
        fetched.append(name)
        return str(hub / name) if (hub / name).is_file() else None

    expected = model_sha256(str(hub))
    monkeypatch.setattr("transformers.utils.cached_file", cached_file)
    assert model_sha256("acme/tiny") == expected
    assert any(name.endswith(".safetensors") for name in fetched)
    for weights in hub.glob("*.safetensors"):
        weights.unlink()
    (hub / "model.safetensors.index.json").unlink(missing_ok=True)
    with pytest.raises(FeaturewatchError, match="model acme/tiny: it has no weights"):
        model_sha256("acme/tiny")


def test_the_text_of_a_finished_cache_is_not_read_again(
    config: HarvestConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Read(Exception):  # noqa: N818 – no error
        pass

    def read(_config: HarvestConfig) -> None:
        raise Read

    monkeypatch.setattr(harvest_prepare, "wanted_documents", read)
    assert harvest(config).complete
    with pytest.raises(Read):
        harvest(dataclasses.replace(config, cache=tmp_path / "new"))


def test_two_runs_do_not_share_a_cache(tmp_path: Path) -> None:
    with cache_lock(tmp_path / "cache"):
        with (
            pytest.raises(FeaturewatchError, match=r"another run of featurewatch is using it.* another --cache folder"),
            cache_lock(tmp_path / "cache"),
        ):
            pass
        with cache_lock(tmp_path / "other"):
            pass
    with cache_lock(tmp_path / "cache"):
        pass
    (tmp_path / "file").touch()
    with pytest.raises(FeaturewatchError, match="must be in a folder"), cache_lock(tmp_path / "file" / "cache"):
        pass


def test_auto_and_the_dtype_that_it_stands_for_are_the_same(
    config: HarvestConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": False})
    if not torch.cuda.is_available():
        assert harvest(dataclasses.replace(config, dtype="auto")).settings["dtype"] == "float32"
    with pytest.raises(FeaturewatchError, match=r"other settings \(dtype\)"):
        harvest(dataclasses.replace(config, dtype="bfloat16"))


def test_a_cache_of_an_older_version_is_refused(config: HarvestConfig) -> None:
    path = config.cache / "manifest.json"
    manifest = json.loads(path.read_text())
    del manifest["identity"]
    path.write_text(json.dumps(manifest))
    with pytest.raises(FeaturewatchError, match="made from another model"):
        harvest(config)
    path.write_text(json.dumps({**manifest, "model": {}}))
    with pytest.raises(FeaturewatchError, match="of another version of featurewatch"):
        harvest(config)


def test_rows_that_an_older_harvest_kept_by_other_rules_are_refused(
    config: HarvestConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(harvest_prepare, "_VERSION", 999)
    with pytest.raises(FeaturewatchError, match=r"other settings \(harvest_version\)"):
        harvest(config)


def test_weights_trained_on_other_rows_are_not_taken_again(config: HarvestConfig, tmp_path: Path) -> None:
    saes = {"sae": SaeConfig.of(POINT, SaeOptions(expansion=2), k=4)}
    cache = ActivationCache(config.cache)

    def train(made_from: str, tolerance: float = 0.05, k: int = 4) -> None:
        source = CacheRows(cache, [POINT], 64, seed=0)
        named = {"sae": SaeConfig.of(POINT, SaeOptions(expansion=2), k=k)}
        settings = TrainConfig(threshold_tolerance=tolerance)
        train_saes_on(source, named, settings, folder=tmp_path, made_from={"model": made_from})

    train("one")
    finished = tmp_path / FINISHED
    before = finished.stat().st_mtime_ns
    train("one", tolerance=0.5)  # is only looked at afterwards
    assert finished.stat().st_mtime_ns == before
    for other in ({"made_from": "another"}, {"made_from": "one", "k": 5}):
        with pytest.raises(FeaturewatchError, match="holds a training with other settings or on other rows"):
            train(**other)  # type: ignore[arg-type]
    revised = settings_of(saes, TrainConfig(), {})
    assert revised["revision"] == TRAINER_REVISION
    assert revised != settings_of(saes, TrainConfig(), {"model": "another"})


@pytest.mark.parametrize("change", [_change_one_weight, _change_template])
def test_captured_prompts_of_another_model_are_not_taken(
    tiny_model: Path, tmp_path: Path, change: Callable[[Path], None]
) -> None:
    shutil.copytree(tiny_model, tmp_path / "model")
    config = toy_config(tmp_path, model=str(tmp_path / "model"), cache=tmp_path / "captured")
    prompts = [Prompt("boats carry bread", True, False), Prompt("salt", False, False)]
    point = HookPoint(3)
    first = capture(config, [point], prompts).residuals[point]
    assert len(list((tmp_path / "captured").iterdir())) == 1
    change(tmp_path)
    second = capture(config, [point], prompts).residuals[point]
    assert not np.array_equal(first, second)
    assert len(list((tmp_path / "captured").iterdir())) == 2
    fresh = capture(dataclasses.replace(config, cache=None), [point], prompts).residuals[point]
    np.testing.assert_array_equal(second, fresh)
