"""SparseCoders of eai-sparsify, trained for a few steps and stored by its own function."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from comparison import D, K, M, agree, randomise, rows
from sparsify import SparseCoder, SparseCoderConfig

from monitor.sae import HookPoint, load_dictionary


@pytest.mark.parametrize("normalize_decoder", [True, False])
@pytest.mark.parametrize("activation", ["topk", "groupmax"])
def test_sparse_coders(tmp_path: Path, activation: str, normalize_decoder: bool) -> None:
    k = K if activation == "topk" else 8
    config = SparseCoderConfig(activation=activation, num_latents=M, k=k, normalize_decoder=normalize_decoder)
    coder = SparseCoder(D, config)
    randomise(coder)
    optimiser = torch.optim.Adam(coder.parameters(), 1e-2)
    for step in range(5):
        optimiser.zero_grad()
        coder(rows(seed=step)).fvu.backward()
        optimiser.step()
    coder.save_to_disk(tmp_path / "layers.10")
    (tmp_path / "config.json").write_text(json.dumps({"model": "tiny"}))
    with torch.no_grad():
        encoded = coder.encode(rows())
        codes = torch.zeros(len(rows()), M).scatter_(1, encoded.top_indices, encoded.top_acts)
        x_hat = coder(rows()).sae_out
    ours = load_dictionary(tmp_path / "layers.10")
    agree(ours, rows(), codes, x_hat)
    assert (ours.hook_point, ours.model) == (HookPoint(10), "tiny")
