"""Wherever a harvest is interrupted, going on with it ends in the same bytes."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from monitor.errors import FeaturewatchError
from monitor.sae import HookPoint
from training.harvest import open_model, run
from training.harvest.cache import ActivationCache
from training.harvest.config import HarvestConfig
from training.harvest.growing_file import GrowingFile
from training.harvest.run import harvest

POINTS = (HookPoint(1, "attn_z"), HookPoint(2))


class _PowerCutError(Exception):
    pass


class TellingModel:
    """Rows that tell token and position."""

    def __init__(self, model: str, hook_points: object, dtype: str = "auto") -> None:
        del model, hook_points, dtype
        self.hook_points = POINTS

    def residuals(self, token_ids_bt: np.ndarray, lengths_b: np.ndarray) -> dict[HookPoint, Tensor]:
        del lengths_b
        rows_btd = torch.zeros(*token_ids_bt.shape, 32)
        rows_btd[..., 0] = torch.from_numpy(token_ids_bt)
        rows_btd[..., 1] = torch.arange(token_ids_bt.shape[1])
        return {point: rows_btd + 100 + point.layer for point in POINTS}


def _config(tiny_model: Path, corpus: Path, cache: Path, *, packing: bool = False) -> HarvestConfig:
    return HarvestConfig(
        model=str(tiny_model),
        data=(corpus,),
        hook_points=tuple(map(str, POINTS)),
        cache=cache,
        tokens=1500,
        context=32,
        batch_tokens=96,
        heldout_share=0.2,
        heldout_tokens=700,
        prompt_tokens=20,
        packing=packing,
        dtype="float32",
        store_dtype="bfloat16",
        shard_rows=400,
    )


def _files(cache: Path) -> dict[str, bytes]:
    found = {str(path.relative_to(cache)): path.read_bytes() for path in cache.rglob("*") if path.is_file()}
    manifest = json.loads(found.pop("manifest.json"))
    manifest["seconds"] = 0
    return {**found, "manifest.json": json.dumps(manifest).encode()}


@pytest.fixture(scope="module", params=[False, True], ids=["windows", "packed"])
def whole(
    request: pytest.FixtureRequest, tiny_model: Path, corpus: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[HarvestConfig, dict[str, bytes]]:
    folder = tmp_path_factory.mktemp("whole")
    config = _config(tiny_model, corpus, folder / "cache", packing=request.param)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(open_model, "ResidualModel", TellingModel)
        patch.setattr(run, "_FLUSH_BATCHES", 3)
        manifest = harvest(config)
    assert manifest.batches_done > 20
    return config, _files(config.cache)


@settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cuts=st.lists(st.integers(0, 260), min_size=1, max_size=3))
def test_going_on_ends_in_the_same_files(
    whole: tuple[HarvestConfig, dict[str, bytes]],
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
    cuts: list[int],
) -> None:
    """Cut in the middle of a write: half of its bytes are on disk."""
    config, expected = whole
    config = dataclasses.replace(config, cache=tmp_path_factory.mktemp("cut") / "cache")
    monkeypatch.setattr(open_model, "ResidualModel", TellingModel)
    monkeypatch.setattr(run, "_FLUSH_BATCHES", 3)
    append = GrowingFile.append
    for cut in cuts:
        left = [cut]

        def failing(self: GrowingFile, data: bytes, left: list[int] = left) -> None:
            left[0] -= 1
            if left[0] < 0:
                append(self, data[: len(data) // 2])
                raise _PowerCutError
            append(self, data)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(GrowingFile, "append", failing)
            try:
                harvest(config)
            except _PowerCutError:
                assert (
                    not (config.cache / "manifest.json").is_file()
                    or not ActivationCache(config.cache).manifest.complete
                )
    assert harvest(config).complete
    assert _files(config.cache) == expected
    ActivationCache(config.cache).require_whole()


_KEPT = ("keep_bos", "keep_special", "keep_template", "keep_outliers")
_YOUNGER = ("documents", "packing", *_KEPT, "activations", "engine_args")
_YOUNGER_FIELDS = ("checksums", "heldout_checksums", "widths", "norm_quantiles", "engine")


def _made_older(cache: Path) -> None:
    """Takes out of the manifest what the first harvests of version 3 did not note."""
    path = cache / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["settings"] = {name: value for name, value in manifest["settings"].items() if name not in _YOUNGER}
    path.write_text(json.dumps({name: value for name, value in manifest.items() if name not in _YOUNGER_FIELDS}))


def test_a_cache_that_an_older_harvest_began_is_gone_on_with(
    tiny_model: Path, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(open_model, "ResidualModel", TellingModel)
    monkeypatch.setattr(run, "_FLUSH_BATCHES", 3)
    config = _config(tiny_model, corpus, tmp_path / "cut")
    append = GrowingFile.append
    left = [150]

    def failing(self: GrowingFile, data: bytes) -> None:
        left[0] -= 1
        if not left[0]:
            raise _PowerCutError
        append(self, data)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(GrowingFile, "append", failing)
        with pytest.raises(_PowerCutError):
            harvest(config)
    assert 0 < ActivationCache(config.cache).manifest.rows < 1500
    _made_older(config.cache)
    harvest(config)
    harvest(dataclasses.replace(config, cache=tmp_path / "whole"))
    cut, whole = _files(tmp_path / "cut"), _files(tmp_path / "whole")
    manifests = [json.loads(files.pop("manifest.json")) for files in (cut, whole)]
    assert cut == whole
    assert manifests[0]["checksums"] == manifests[1]["checksums"]
    assert set(manifests[1]["settings"]) - set(manifests[0]["settings"]) == set(_YOUNGER)


def test_a_whole_cache_of_an_older_harvest_is_taken_as_it_is(
    whole: tuple[HarvestConfig, dict[str, bytes]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, _ = whole
    monkeypatch.setattr(open_model, "ResidualModel", None)  # is not opened
    shutil.copytree(config.cache, tmp_path / "cache")
    _made_older(tmp_path / "cache")
    older = dataclasses.replace(config, cache=tmp_path / "cache")
    if config.packing:
        with pytest.raises(FeaturewatchError, match=r"other settings \(packing\)"):
            harvest(older)
    else:
        assert harvest(older).complete
        assert len(list(ActivationCache(older.cache).batches(POINTS[1], 100, seed=0))) >= 15


_KILLED = """
import os, signal, sys
from pathlib import Path
from training.harvest import run
from training.harvest.cache_writer import CacheWriter
from training.harvest.config import HarvestConfig

run._FLUSH_BATCHES = 2
flush, left = CacheWriter.flush, [int(sys.argv[4])]


def killed_between_flushes(self):
    flush(self)
    left[0] -= 1
    if not left[0]:
        append = CacheWriter.append

        def die(self, rows, rng):
            append(self, rows, rng)
            os.kill(os.getpid(), signal.SIGKILL)

        CacheWriter.append = die


CacheWriter.flush = killed_between_flushes
run.harvest(
    HarvestConfig(
        model=sys.argv[1], data=(Path(sys.argv[2]),), hook_points=("attn_z.1", "mlp_out.2"), cache=Path(sys.argv[3]),
        tokens=600, context=32, batch_tokens=96, heldout_share=0.2, heldout_tokens=200, dtype="float32",
    )
)
"""


def test_a_killed_process_leaves_a_cache_to_go_on_with(tiny_model: Path, corpus: Path, tmp_path: Path) -> None:
    arguments = [sys.executable, "-c", _KILLED, str(tiny_model), str(corpus), str(tmp_path / "cut"), "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    killed = subprocess.run(arguments, env=environment, check=False, capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    before = ActivationCache(tmp_path / "cut").manifest
    assert not before.complete
    assert before.batches_done == 4
    held = sum(path.stat().st_size for path in (tmp_path / "cut" / "attn_z.1").iterdir())
    assert held > before.rows * 32 * 2  # what the manifest does not count yet
    config = dataclasses.replace(
        _config(tiny_model, corpus, tmp_path / "cut"),
        hook_points=("attn_z.1", "mlp_out.2"),
        tokens=600,
        heldout_tokens=200,
        prompt_tokens=128,
        store_dtype="float16",
        shard_rows=262_144,
    )
    harvest(config)
    harvest(dataclasses.replace(config, cache=tmp_path / "whole"))
    assert _files(tmp_path / "cut") == _files(tmp_path / "whole")
