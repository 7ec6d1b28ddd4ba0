"""`featurewatch sae info` and `sae convert` on SAEs of other families."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from support.command import Command

from monitor.sae import HookPoint, JumpRelu, TopK, load_saelens
from training.harvest.cache_writer import CacheWriter
from training.harvest.manifest import Manifest

D, M, K = 8, 1024, 50


@pytest.fixture
def qwen(tmp_path: Path) -> Path:
    """A Qwen-Scope file, of topk kind."""
    rng = np.random.default_rng(1)
    state = {
        name: torch.from_numpy(rng.standard_normal(shape, np.float32))
        for name, shape in {"W_enc": (M, D), "W_dec": (D, M), "b_enc": (M,), "b_dec": (D,)}.items()
    }
    path = tmp_path / "SAE-Res-Qwen3-8B-W1K-L0_50" / "layer7.sae.pt"
    path.parent.mkdir()
    torch.save(state, path)
    return path


def test_info_of_a_foreign_file(featurewatch: Command, qwen: Path) -> None:
    code, out, err = featurewatch("sae", "info", str(qwen))
    assert code == 0, err
    for text in ("Qwen/Qwen3-8B, resid_post.7", "Qwen-Scope", "TopK, k = 50; policies cannot watch it", "L0 50"):
        assert text in out
    code, _, err = featurewatch("sae", "info", str(qwen), "--hook-point", "resid_post.8")
    assert code != 0
    assert "resid_post.7" in err


def test_convert_keeps_the_sae(featurewatch: Command, qwen: Path, tmp_path: Path) -> None:
    out = tmp_path / "zoo" / "qwen" / "resid_post.7"
    code, text, err = featurewatch("sae", "convert", str(qwen), "--out", str(out))
    assert code == 0, err
    stored = load_saelens(out)
    assert (stored.activation, stored.hook_point, stored.model) == (TopK(K), HookPoint(7), "Qwen/Qwen3-8B")
    assert stored.sha256 in text
    _, shown, _ = featurewatch("sae", "info", "qwen/resid_post.7", "--zoo", str(tmp_path / "zoo"))
    checksum = text.split("checksum ")[1].split(" ")[0]
    assert checksum in shown
    code, _, err = featurewatch("sae", "convert", str(qwen), "--out", str(out))
    assert code != 0
    assert "exists already" in err


def test_a_threshold_makes_it_watchable(featurewatch: Command, qwen: Path, tmp_path: Path) -> None:
    rows_nd = np.random.default_rng(2).standard_normal((3000, D), np.float32)
    np.save(tmp_path / "rows.npy", rows_nd)
    arguments = ["sae", "convert", str(qwen), "--threshold-from", str(tmp_path / "rows.npy")]
    code, _, err = featurewatch(*arguments, "--out", str(tmp_path / "sae"), "--l0", "50", "--dtype", "float16")
    assert code == 0, err
    stored = load_saelens(tmp_path / "sae")
    assert isinstance(stored.activation, JumpRelu)
    assert stored.decides_by_latent
    assert np.count_nonzero(stored.encode(rows_nd)) / len(rows_nd) == pytest.approx(50, rel=0.01)
    assert load_file(tmp_path / "sae" / "sae_weights.safetensors")["W_enc"].dtype == np.float16
    for more, says in [
        (["--l0", "0"], "above 0"),
        (["--l0", "2000"], "its training kept 50"),
        ([], "give both"),
    ]:
        code, _, err = featurewatch(*arguments, "--out", str(tmp_path / "other"), *more)
        assert code != 0
        assert says.lower() in err.lower()
        assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        (np.zeros((5, D + 1), np.float32), "width 9"),
        (np.zeros(D, np.float32), "shape [rows, width]"),
        (np.full((5, D), np.nan, np.float32), "finite"),
        (np.array([{"a": 1}], dtype=object), "numbers"),
    ],
)
def test_rows_that_do_not_fit(featurewatch: Command, qwen: Path, tmp_path: Path, rows: np.ndarray, says: str) -> None:
    np.save(tmp_path / "rows.npy", rows, allow_pickle=True)
    arguments = ["--threshold-from", str(tmp_path / "rows.npy"), "--l0", "5", "--out", str(tmp_path / "sae")]
    code, _, err = featurewatch("sae", "convert", str(qwen), *arguments)
    assert code != 0
    assert says in " ".join(err.split())


def test_a_threshold_from_an_activation_cache(featurewatch: Command, qwen: Path, tmp_path: Path) -> None:
    point, rows_nd = HookPoint(7), np.random.default_rng(2).standard_normal((600, D), np.float32)
    writer = CacheWriter(tmp_path / "cache", Manifest(D, [str(point)], "float32", [0, 0], settings={}))
    writer.append({point: rows_nd}, np.random.default_rng(0))
    writer.flush()
    arguments = [
        "--threshold-from",
        str(tmp_path / "cache"),
        "--l0",
        "20",
        "--rows",
        "600",
        "--out",
        str(tmp_path / "sae"),
    ]
    code, _, err = featurewatch("sae", "convert", str(qwen), *arguments)
    assert code == 0, err
    assert np.count_nonzero(load_saelens(tmp_path / "sae").encode(rows_nd)) == 20 * 600
    other = qwen.with_name("layer8.sae.pt")
    qwen.rename(other)
    code, _, err = featurewatch("sae", "convert", str(other), *arguments[:-1], str(tmp_path / "other"))
    assert code != 0
    assert "resid_post.8" in err
