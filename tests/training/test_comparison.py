"""The difference between two engines on the same text, against figures computed from all rows at once."""

from __future__ import annotations

import errno
import itertools
import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from fake_engine import FakeLLM, start_fake_engine
from support.command import Command

from monitor.errors import FeaturewatchError
from monitor.sae import Dictionary, HookPoint, Relu, save_saelens
from training.comparison import run
from training.comparison.config import CompareConfig
from training.comparison.latents import LatentDifference
from training.comparison.point import MeasuredPoint
from training.comparison.rows import RowDifference
from training.comparison.run import compare
from training.harvest import engine_model
from training.harvest.batches import TokenBatch
from training.harvest.documents import read_documents, shuffled_order
from training.harvest.loading import load_tokenizer
from training.harvest.tokens import Reason, SequenceMaker

RNG = np.random.default_rng(5)
WIDTH = 32


def _rows(n: int) -> tuple[np.ndarray, np.ndarray]:
    x_nd = (RNG.normal(size=(n, WIDTH)) * RNG.uniform(1, 9, (n, 1)) + 3).astype(np.float32)
    return x_nd, (1.1 * x_nd + RNG.normal(size=x_nd.shape) * 0.2).astype(np.float32)


def _dictionary(point: HookPoint) -> Dictionary:
    w_md = RNG.normal(size=(20, WIDTH)).astype(np.float32)
    return Dictionary(w_md, np.full(20, -9, np.float32), w_md / 32, np.zeros(WIDTH, np.float32), Relu(), point, "tiny")


def _fvu(target_nd: np.ndarray, guess_nd: np.ndarray) -> float:
    return float(((target_nd - guess_nd) ** 2).sum() / ((target_nd - target_nd.mean(axis=0)) ** 2).sum())


def _in_parts(add: Callable[..., Any], *arrays: np.ndarray) -> None:
    for parts in zip(*(np.array_split(array, [3, 700, 701]) for array in arrays), strict=True):
        add(*parts)


def test_row_figures_follow_their_definition() -> None:
    x_nd, y_nd = _rows(1000)
    difference = RowDifference(WIDTH)
    _in_parts(difference.add, x_nd, y_nd)
    found = difference.figures()
    assert found is not None
    error_n = np.linalg.norm(y_nd - x_nd, axis=1) / np.linalg.norm(x_nd, axis=1)
    ratio_n = np.linalg.norm(y_nd, axis=1) / np.linalg.norm(x_nd, axis=1)
    cosine_n = (x_nd * y_nd).sum(axis=1) / np.linalg.norm(x_nd, axis=1) / np.linalg.norm(y_nd, axis=1)
    assert found.rows == 1000
    assert found.error_median == pytest.approx(np.median(error_n), rel=1e-5)
    assert found.error_p99 == pytest.approx(np.quantile(error_n, 0.99), rel=1e-5)
    assert found.error_max == pytest.approx(error_n.max(), rel=1e-5)
    assert (found.cosine_median, found.cosine_min) == pytest.approx((np.median(cosine_n), cosine_n.min()), rel=1e-5)
    ratios = (found.norm_ratio_p1, found.norm_ratio_median, found.norm_ratio_p99)
    assert ratios == pytest.approx(np.quantile(ratio_n, [0.01, 0.5, 0.99]), rel=1e-5)
    assert found.fvu_of_reference == pytest.approx(_fvu(x_nd, y_nd), rel=1e-4)
    assert found.fvu_of_engine == pytest.approx(_fvu(y_nd, x_nd), rel=1e-4)
    assert RowDifference(WIDTH).figures() is None


def test_latent_figures_follow_their_definition() -> None:
    x_nd, y_nd = _rows(1500)
    dictionary = _dictionary(HookPoint(1))
    difference = LatentDifference(dictionary)
    _in_parts(difference.add, x_nd, y_nd)
    found = difference.figures()
    assert found is not None
    f_nm, g_nm = dictionary.encode(x_nd), dictionary.encode(y_nd)
    sets = [(set(np.flatnonzero(f)), set(np.flatnonzero(g))) for f, g in zip(f_nm, g_nm, strict=True)]
    jaccard_n = [len(f & g) / len(f | g) if f | g else 1.0 for f, g in sets]
    assert 0.5 < np.mean(jaccard_n) < 0.999
    assert (found.l0_reference, found.l0_engine) == ((f_nm > 0).sum(axis=1).mean(), (g_nm > 0).sum(axis=1).mean())
    assert found.jaccard == pytest.approx(np.mean(jaccard_n))
    assert found.jaccard_p1 == pytest.approx(np.quantile(jaccard_n, 0.01))
    assert found.kept == pytest.approx(sum(len(f & g) for f, g in sets) / sum(len(f) for f, _ in sets))
    both = (f_nm > 0) & (g_nm > 0)
    assert found.magnitude_error == pytest.approx(np.abs(g_nm - f_nm)[both].sum() / f_nm[both].sum(), rel=1e-4)
    assert found.fvu_reference == pytest.approx(_fvu(x_nd, dictionary.decode(f_nm)), rel=1e-4)
    assert found.fvu_engine == pytest.approx(_fvu(y_nd, dictionary.decode(g_nm)), rel=1e-4)


def test_latents_that_never_fire_agree() -> None:
    silent = LatentDifference(_dictionary(HookPoint(1)))
    silent.add(np.zeros((4, WIDTH), np.float32), np.eye(4, WIDTH, dtype=np.float32))
    found = silent.figures()
    assert found is not None
    assert (found.jaccard, found.kept, found.l0_engine) == (1.0, 0.0, 0.0)


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[FakeLLM]:
    made: list[FakeLLM] = []
    monkeypatch.setattr(engine_model, "start_engine", start_fake_engine(made))
    return made


def _sae(folder: Path) -> Path:
    save_saelens(_dictionary(HookPoint(2)), folder)
    return folder


def test_the_command_shows_both_engines_and_writes_all_figures(
    featurewatch: Command, tiny_model: Path, corpus: Path, tmp_path: Path, made: list[FakeLLM]
) -> None:
    sae = _sae(tmp_path / "some-sae")
    arguments = ["--data", str(corpus), "--hook-point", "resid_post.2", "--hook-point", "resid_pre.1"]
    arguments += ["--sae", str(sae), "--sequences", "30", "--context", "32", "--batch-tokens", "256", "--worst", "3"]
    out = tmp_path / "figures.json"
    code, shown, _ = featurewatch(
        "activations", "compare", str(tiny_model), *arguments, "--dtype", "bfloat16", "--out", str(out)
    )
    assert code == 0
    assert made[0].closed
    found = json.loads(out.read_text())
    assert (found["sequences"], found["engine"]["version"], found["reference"]["dtype"]) == (30, "0.32.0", "float32")
    assert set(found["points"]) == {"resid_pre.1", "resid_post.2"}
    point = found["points"]["resid_post.2"]
    assert 0 < point["content"]["rows"] < point["everything"]["rows"] == found["tokens"]
    assert 1e-4 < point["content"]["error_median"] < 5e-2
    assert [far["error"] for far in point["far"]] == sorted((far["error"] for far in point["far"]), reverse=True)
    assert point["far"][0]["error"] == pytest.approx(point["everything"]["error_max"])
    assert len(point["far"]) == 3
    assert 0.5 < point["saes"]["some-sae"]["jaccard"] <= 1
    assert found["points"]["resid_pre.1"]["saes"] == {}
    for text in ("resid_post.2", "relative error p99", "FVU of vLLM by Hugging Face", "some-sae: L0", "Jaccard mean"):
        assert text in shown
    code, shown, _ = featurewatch("activations", "compare", str(tiny_model), *arguments, "--json")
    assert code == 0
    exact = json.loads(shown)["points"]["resid_post.2"]
    assert exact["everything"]["error_max"] < 1e-5
    assert exact["saes"]["some-sae"]["jaccard"] > 0.99


def test_rows_that_a_training_leaves_out_are_no_content() -> None:
    """An attention sink behind the first position would own every sum."""
    x_nd, _ = _rows(6)
    x_nd *= 10 / np.linalg.norm(x_nd, axis=1, keepdims=True)
    x_nd[1] *= 7
    y_nd = x_nd * 1.01
    reasons_bt = np.array([[Reason.BOS, *[Reason.KEPT] * 3], [Reason.KEPT, Reason.TEMPLATE, *[Reason.PADDING] * 2]])
    batch = TokenBatch(np.arange(8).reshape(2, 4), reasons_bt.astype(np.uint8), False)
    point = MeasuredPoint(WIDTH, {}, SimpleNamespace(decode=str), worst=2)
    rows = [np.zeros((2, 4, WIDTH), np.float32) for _ in range(2)]
    for rows_btd, values_nd in zip(rows, (x_nd, y_nd), strict=True):
        rows_btd[reasons_bt != Reason.PADDING] = values_nd
    rows[1][0, 1] = 0
    rows[1][1, 1] = -3 * rows[0][1, 1]
    point.add(batch, 40, *rows)
    found = point.result()
    assert (found.content.rows, found.everything.rows) == (3, 6)
    assert [(far.sequence, far.position, far.token, far.kind) for far in found.far] == [
        (41, 1, "[5]", "template"),
        (40, 1, "[1]", "outlier"),
    ]
    assert batch.reasons_bt[0, 1] == Reason.KEPT


def test_what_does_not_fit_is_told_before_an_engine_starts(
    tiny_model: Path, corpus: Path, tmp_path: Path, made: list[FakeLLM]
) -> None:
    sae = _sae(tmp_path / "sae")

    def refused(says: str, **changes: Any) -> None:
        settings = {"model": str(tiny_model), "data": (corpus,), "hook_points": ("resid_post.1",), "context": 32}
        with pytest.raises(FeaturewatchError, match=says):
            compare(CompareConfig(**(settings | changes)))

    refused(r"at resid_post\.2: the comparison is at resid_post\.1", sae=(sae,))
    refused("has layers 0 to 3", hook_points=("resid_post.4",))
    refused("'attn_out.1' with activations vllm", hook_points=("attn_out.1",))
    refused("vLLM needs one", context=512)
    refused("engine-args with dtype", engine_args='{"dtype": "half"}')
    refused("dtype 'int8'", dtype="int8")
    refused("reference-dtype", reference_dtype="float16")
    refused("sequences 0", sequences=0)
    refused("worst -1", worst=-1)
    assert made == []


def test_of_an_endless_data_set_only_the_beginning_is_read(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, made: list[FakeLLM]
) -> None:
    rows = ({"text": f"one of many texts {number} " * 20} for number in itertools.count())
    monkeypatch.setattr("training.harvest.documents.read_hub", lambda _data: enumerate(rows))
    config = CompareConfig(
        str(tiny_model), (Path(f"hf:{tmp_path}"),), ("resid_post.2",), sequences=6, context=32, batch_tokens=64
    )
    assert compare(config).sequences == 6
    assert made[0].closed


def test_sequences_come_in_the_seed_s_order_from_documents_on_disk(tiny_model: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"text": f"{number} of many " * 400}) + "\n" for number in range(2000)))
    config = CompareConfig(str(tiny_model), (path,), ("resid_post.2",), sequences=300, context=32, seed=3)
    wanted, tokenizer = run._harvest_config(config), load_tokenizer(str(tiny_model))
    tracemalloc.start()
    found = run._sequences(wanted, config, tokenizer)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < path.stat().st_size / 4
    documents = list(read_documents([path]))
    ordered = (documents[number] for number in shuffled_order(len(documents), 3))
    expected = itertools.islice(SequenceMaker(tokenizer, wanted).all_sequences(ordered), 300)
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_array_equal(ours.token_ids_n, theirs.token_ids_n)


def test_a_full_folder_for_temporary_files_is_told(
    tiny_model: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full() -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("training.harvest.document_store.tempfile.TemporaryFile", full)
    config = CompareConfig(str(tiny_model), (corpus,), ("resid_post.2",), context=32)
    with pytest.raises(FeaturewatchError, match=r"temporary files .*No space left on device.*TMPDIR"):
        run._sequences(run._harvest_config(config), config, None)
