"""A labelled text's row is the pool of its content tokens' latents, whatever shares a batch or a chunk with it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from toy_saes import random_sae

from monitor.errors import FeaturewatchError
from monitor.sae import HookPoint
from training.discovery.prompt import Prompt
from training.evaluation import pooled
from training.evaluation.config import EvalConfig
from training.evaluation.pooled import pooled_texts, text_sequences
from training.harvest.loading import load_tokenizer
from training.harvest.tokens import Reason, TokenSequence

POINT = HookPoint(1)


class Table:
    """A row of 8 values per token id."""

    hook_points = (POINT,)
    rows_vd = np.random.default_rng(0).normal(size=(300, 8)).astype(np.float32)

    def width_of(self, _point: HookPoint) -> int:
        return 8

    def residuals(self, token_ids_bt: np.ndarray) -> dict[HookPoint, torch.Tensor]:
        return {POINT: torch.from_numpy(self.rows_vd[token_ids_bt])}


def _sequence(seed: int, length: int) -> TokenSequence:
    rng = np.random.default_rng(seed)
    reasons_n = rng.choice([Reason.KEPT, Reason.TEMPLATE], length, p=[0.7, 0.3]).astype(np.uint8)
    reasons_n[-1] = Reason.KEPT
    return TokenSequence(rng.integers(0, 300, length).astype(np.int32), reasons_n, False)


@pytest.mark.parametrize("pooling", ["mean", "max"])
@pytest.mark.parametrize("chunk", [24 * 9, 2**24])
def test_pooled_rows_equal_a_direct_computation(monkeypatch: pytest.MonkeyPatch, pooling: str, chunk: int) -> None:
    monkeypatch.setattr(pooled, "_CHUNK_VALUES", chunk)
    sequences = [_sequence(seed, 3 + seed) for seed in range(12)]
    config = EvalConfig(model="m", data=(Path("x"),), context=16, batch_tokens=40, pooling=pooling)
    saes = {"a": random_sae(), "b": random_sae(seed=1)}
    found = pooled_texts(Table(), saes, sequences, config, "toy")
    for index, sequence in enumerate(sequences):
        rows_nd = Table.rows_vd[sequence.token_ids_n[sequence.reasons_n == Reason.KEPT]]
        np.testing.assert_allclose(found.residuals[POINT][index], rows_nd.mean(0), rtol=1e-5, atol=1e-6)
        for name, sae in saes.items():
            codes_nm = sae.encode(rows_nd)
            expected_m = codes_nm.max(0) if pooling == "max" else codes_nm.mean(0)
            np.testing.assert_allclose(found.codes[name][[index]].toarray()[0], expected_m, rtol=1e-5, atol=1e-6)


def test_texts_are_rendered_as_the_form_says(tiny_model: Path) -> None:
    tokenizer = load_tokenizer(str(tiny_model))
    prompts = [Prompt("bread", True, False), Prompt("", True, False)]

    def ids(form: str) -> tuple[list[int], list[int]]:
        config = EvalConfig(model=str(tiny_model), data=(Path("x"),), probe_form=form)
        kept, sequences = text_sequences(prompts, tokenizer, config)
        assert kept == prompts[:1]
        (sequence,) = sequences
        return sequence.token_ids_n.tolist(), sequence.token_ids_n[sequence.reasons_n == Reason.KEPT].tolist()

    bread = tokenizer("bread", add_special_tokens=False)["input_ids"]
    assert ids("plain") == ([tokenizer.bos_token_id, *bread], bread)
    whole, kept = ids("auto")
    assert len(whole) > 3 * len(bread)
    assert kept == bread
    assert ids("chat") == (whole, kept)
    tokenizer.chat_template = None
    assert ids("auto") == ([tokenizer.bos_token_id, *bread], bread)
    with pytest.raises(FeaturewatchError, match="it has no chat template"):
        ids("chat")
