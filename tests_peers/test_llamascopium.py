"""Sparse autoencoders of llamascopium, stored by its own functions."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from comparison import D, K, M, agree, randomise, rows
from llamascopium.models.sae import SAEConfig, SparseAutoEncoder

from monitor.sae import Hints, HookPoint, load_dictionary

HOOK = "blocks.2.hook_mlp_out"


@pytest.mark.parametrize("by_norm", [True, False])
@pytest.mark.parametrize("rule", ["dataset-wise", "token-wise", "inference"])
@pytest.mark.parametrize("function", ["relu", "jumprelu", "topk"])
def test_sparse_autoencoders(tmp_path: Path, function: str, rule: str, by_norm: bool) -> None:
    config = SAEConfig(
        hook_point_in=HOOK,
        hook_point_out=HOOK,
        d_model=D,
        expansion_factor=M / D,
        act_fn=function,
        norm_activation="dataset-wise" if rule == "inference" else rule,
        sparsity_include_decoder_norm=by_norm,
        top_k=K,
        device="cpu",
        dtype=torch.float32,
    )
    sae = SparseAutoEncoder(config)
    randomise(sae)
    sae.set_current_k(K)
    if rule != "token-wise":
        sae.set_dataset_average_activation_norm({HOOK: 5.0})
    # What "inference" means: their own fold of the norms.
    sae.save_pretrained(tmp_path, fold_activation_scale=rule == "inference")
    sae.cfg.save_hyperparameters(tmp_path)
    with torch.no_grad():
        batch, scales = sae.normalize_activations({HOOK: rows()}, return_scale_factor=True)
        codes = sae.encode(batch[HOOK])
        x_hat = sae.decode(codes) / scales[HOOK]
    unit = sae.decoder_norm() if function == "topk" and by_norm else 1.0
    ours = load_dictionary(tmp_path, Hints(model="tiny"))
    agree(ours, rows(), codes, x_hat, unit)
    assert ours.hook_point == HookPoint(2, "mlp_out")
