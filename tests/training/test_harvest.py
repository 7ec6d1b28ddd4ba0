"""The cache holds what Hugging Face computes, less what is excluded."""

from __future__ import annotations

import dataclasses
import gzip
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from monitor.errors import FeaturewatchError
from monitor.sae import HookPoint
from training.harvest import compute
from training.harvest import run as harvest_run
from training.harvest.batches import make_batches
from training.harvest.cache import ActivationCache
from training.harvest.config import HarvestConfig
from training.harvest.documents import read_documents, shuffled_order
from training.harvest.loading import load_tokenizer
from training.harvest.residuals import ResidualModel
from training.harvest.run import harvest
from training.harvest.tokens import Reason, SequenceMaker

POINTS = (HookPoint(1), HookPoint(2))


def _config(folder: Path, corpus: Path, cache: Path, **changes: object) -> HarvestConfig:
    config = HarvestConfig(
        model=str(folder),
        data=(corpus,),
        hook_points=tuple(map(str, POINTS)),
        cache=cache,
        tokens=1500,
        context=64,
        batch_tokens=256,
        heldout_share=0.2,
        heldout_tokens=900,
        prompt_tokens=20,
        dtype="float32",
        store_dtype="float32",
        shard_rows=400,
    )
    return dataclasses.replace(config, **changes)  # type: ignore[arg-type]


def _rows(cache: Path, point: HookPoint, seed: int = 0) -> np.ndarray:
    return np.concatenate(list(ActivationCache(cache).batches(point, 1, seed)))


def _sorted(rows_nd: np.ndarray) -> np.ndarray:
    return rows_nd[np.lexsort(rows_nd.T[::-1])]


def test_cache_equals_output_hidden_states(tiny_model: Path, corpus: Path, tmp_path: Path) -> None:
    """Every kept row of every batch, computed by the whole model, is in the cache once."""
    config = _config(tiny_model, corpus, tmp_path / "cache", outlier_factor=1.3)
    manifest = harvest(config)
    found = list(read_documents(config.data))
    documents = [found[number] for number in shuffled_order(len(found), config.seed)]
    maker = SequenceMaker(load_tokenizer(config.model), config)
    reference = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32).eval()
    expected: dict[HookPoint, list[np.ndarray]] = {point: [] for point in POINTS}
    content = dropped = 0
    for batch in make_batches((s for d in documents for s in maker.sequences(d)), config.batch_tokens):
        if sum(map(len, expected[POINTS[0]])) >= config.tokens:
            break
        if batch.held_out:
            continue
        for row, reasons in zip(batch.token_ids_bt, batch.reasons_bt, strict=True):
            length = int((reasons != Reason.PADDING).sum())
            with torch.inference_mode():
                states = reference(torch.from_numpy(row[None, :length]), output_hidden_states=True).hidden_states
            by_point = {point: states[point.layer + 1][0].numpy() for point in POINTS}
            kept = reasons[:length] == Reason.KEPT
            content += int(kept.sum())
            for point, rows in by_point.items():
                kept = kept & (np.linalg.norm(rows, axis=1) <= 1.3 * manifest.medians[str(point)])
            dropped += int((reasons[:length] == Reason.KEPT).sum() - kept.sum())
            for point, rows in by_point.items():
                expected[point].append(rows[kept])
    for point in POINTS:
        rows_nd = _rows(config.cache, point)
        assert len(rows_nd) == manifest.rows
        want_nd = np.concatenate(expected[point])
        np.testing.assert_allclose(_sorted(rows_nd), _sorted(want_nd), rtol=1e-4, atol=1e-4)
    assert manifest.counts["outlier"] == dropped > 0
    assert manifest.counts["kept"] == content - dropped == manifest.rows


def test_shuffle_depends_on_the_seed_alone(tiny_model: Path, corpus: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        harvest(_config(tiny_model, corpus, tmp_path / name))
    first = _rows(tmp_path / "a", POINTS[0])
    np.testing.assert_array_equal(first, _rows(tmp_path / "b", POINTS[0]))
    other = _rows(tmp_path / "a", POINTS[0], seed=1)
    assert not np.array_equal(first, other)
    np.testing.assert_array_equal(_sorted(first), _sorted(other))
    # Rows of one forward pass end up far apart: neighbours in the cache are no more alike than any two rows.
    order = np.random.default_rng(0).permutation(len(first))
    neighbours = np.linalg.norm(np.diff(first, axis=0), axis=1).mean()
    strangers = np.linalg.norm(np.diff(first[order], axis=0), axis=1).mean()
    assert neighbours == pytest.approx(strangers, rel=0.05)


def test_hook_points_stay_aligned_through_the_shuffle(tiny_model: Path, corpus: Path, tmp_path: Path) -> None:
    """The rows of both hook points are of the same tokens: layer 2's rows follow from layer 1's embedding order."""
    harvest(_config(tiny_model, corpus, tmp_path / "both"))
    harvest(_config(tiny_model, corpus, tmp_path / "one", hook_points=(str(POINTS[1]),)))
    np.testing.assert_array_equal(_rows(tmp_path / "both", POINTS[1]), _rows(tmp_path / "one", POINTS[1]))


def test_interrupted_harvest_goes_on_to_the_same_cache(
    tiny_model: Path, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(harvest_run, "_FLUSH_BATCHES", 2)
    harvest(_config(tiny_model, corpus, tmp_path / "whole"))
    forward, calls = ResidualModel.residuals, []

    def failing(self: ResidualModel, token_ids_bt: np.ndarray, lengths_b: np.ndarray) -> object:
        calls.append(1)
        if len(calls) == 11:
            raise RuntimeError("power cut")
        return forward(self, token_ids_bt, lengths_b)

    monkeypatch.setattr(ResidualModel, "residuals", failing)
    with pytest.raises(RuntimeError, match="power cut"):
        harvest(_config(tiny_model, corpus, tmp_path / "cut"))
    monkeypatch.setattr(ResidualModel, "residuals", forward)
    harvest(_config(tiny_model, corpus, tmp_path / "cut"))
    for point in POINTS:
        np.testing.assert_array_equal(_rows(tmp_path / "whole", point), _rows(tmp_path / "cut", point))
    whole, cut = (ActivationCache(tmp_path / name).manifest for name in ("whole", "cut"))
    assert whole.counts == cut.counts
    assert whole.heldout_rows == cut.heldout_rows > 0


def test_auto_dtype_is_bfloat16_only_with_hardware(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True, "avx512_bf16": False})
    assert compute.forward_dtype("auto", cpu) is torch.float32
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    assert compute.forward_dtype("auto", cpu) is torch.bfloat16
    assert compute.forward_dtype("auto", torch.device("cuda")) is torch.bfloat16
    with pytest.raises(FeaturewatchError, match="float8"):
        compute.forward_dtype("float8", cpu)


def test_text_and_gzip_files(tmp_path: Path) -> None:
    plain, packed = tmp_path / "a.txt", tmp_path / "b.jsonl.gz"
    plain.write_text("one paragraph\n\nand another")
    packed.write_bytes(gzip.compress(b'{"body": "salt"}\n\n{"body": "  "}\n'))
    assert [document.text for document in read_documents([plain])] == ["one paragraph\n\nand another"]
    assert [document.text for document in read_documents([packed], "body")] == ["salt"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hook_points": ("resid_post.9",)}, "model .* has layers 0 to 3"),
        ({"hook_points": ("attn.1",)}, "hook point 'attn.1'"),
        ({"model": "/no/such/model"}, "model folder /no/such/model: there is no such folder"),
        ({"data": (Path("/no/such.jsonl"),)}, "data file /no/such.jsonl"),
        ({"text_field": "body"}, "needs a text in field 'body'"),
        ({"tokens": 10**15}, "GB free: 1,000,000,000,000,000 tokens at 2 hook points need"),
    ],
)
def test_bad_input_is_told(
    tiny_model: Path, corpus: Path, tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(FeaturewatchError, match=message):
        harvest(_config(tiny_model, corpus, tmp_path / "cache", **changes))


def test_empty_and_damaged_data_are_told(tiny_model: Path, tmp_path: Path) -> None:
    empty, broken, cut = tmp_path / "empty.jsonl", tmp_path / "broken.jsonl", tmp_path / "cut.jsonl.gz"
    empty.write_text("\n")
    broken.write_text("{not json\n")
    cut.write_bytes(gzip.compress(b'{"text": "salt"}\n' * 1000)[:-20])
    with pytest.raises(FeaturewatchError, match="hold no text"):
        harvest(_config(tiny_model, empty, tmp_path / "c1"))
    with pytest.raises(FeaturewatchError, match=r"broken.jsonl:1"):
        harvest(_config(tiny_model, broken, tmp_path / "c2"))
    with pytest.raises(FeaturewatchError, match="gzipped"):
        harvest(_config(tiny_model, cut, tmp_path / "c3"))


def test_a_cache_of_other_settings_is_not_mixed(tiny_model: Path, corpus: Path, tmp_path: Path) -> None:
    harvest(_config(tiny_model, corpus, tmp_path / "cache"))
    with pytest.raises(FeaturewatchError, match=r"other settings \(seed\)"):
        harvest(_config(tiny_model, corpus, tmp_path / "cache", seed=5))
