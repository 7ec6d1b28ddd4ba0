"""Files of OpenMOSS' families against each family's own forward pass, written out in float64."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from foreign_files import D, Draw, M, Tensors, agree, doubles, relu, rows, store, top

from monitor.errors import FeaturewatchError
from monitor.sae import Hints, HookPoint, load_dictionary

K = 4
X = rows().astype(np.float64)


def test_llama_scope(tmp_path: Path) -> None:
    draw = Draw(1)
    tensors: Tensors = {
        "encoder.weight": draw(M, D),
        "encoder.bias": draw(M),
        "decoder.weight": draw(D, M),
        "decoder.bias": draw(D),
    }
    config = {
        "d_model": D,
        "d_sae": M,
        "act_fn": "jumprelu",
        "jump_relu_threshold": 0.4,
        "norm_activation": "dataset-wise",
        "dataset_average_activation_norm": {"in": 1.5, "out": 2.5},
        "apply_decoder_bias_to_pre_encoder": False,
        "sparsity_include_decoder_norm": True,
        "hook_point_in": "blocks.13.hook_resid_post",
        "hook_point_out": "blocks.13.hook_resid_post",
    }
    folder = store(tmp_path, tensors, config, weights="checkpoints/final.safetensors", config_file="hyperparams.json")
    t, s_in, s_out = doubles(tensors), np.sqrt(D) / 1.5, np.sqrt(D) / 2.5
    pre = s_in * X @ t["encoder.weight"].T + t["encoder.bias"]
    f = relu(pre) * (pre > s_out * 0.4)
    sae = load_dictionary(folder)
    agree(sae, rows(), f, (f @ t["decoder.weight"].T + t["decoder.bias"]) / s_out)
    assert (sae.hook_point, sae.model) == (HookPoint(13), "meta-llama/Llama-3.1-8B")


def test_llama_scope_r1_distill(tmp_path: Path) -> None:
    draw = Draw(1)
    tensors: Tensors = {
        "encoder.weight": draw(M, D),
        "encoder.bias": draw(M),
        "decoder.weight": draw(D, M),
        "decoder.bias": draw(D),
        "log_jumprelu_threshold": draw(M),
    }
    config = {"d_model": D, "expansion_factor": M // D, "hook_point_in": "blocks.15.hook_resid_post"}
    folder = store(tmp_path, tensors, config, weights="sae_weights.safetensors", config_file="config.json")
    with pytest.raises(FeaturewatchError, match="--norm-factor"):
        load_dictionary(folder)
    t, s = doubles(tensors), 1.75
    pre = s * X @ t["encoder.weight"].T + t["encoder.bias"]
    f = relu(pre) * (pre > np.exp(t["log_jumprelu_threshold"]))
    sae = load_dictionary(folder, Hints(norm_factor=s))
    agree(sae, rows(), f, (f @ t["decoder.weight"].T + t["decoder.bias"]) / s)
    assert (sae.hook_point, sae.model) == (HookPoint(15), "deepseek-ai/DeepSeek-R1-Distill-Llama-8B")


@pytest.mark.parametrize("by_norm", [True, False])
@pytest.mark.parametrize("rule", ["dataset-wise", "token-wise", "inference"])
@pytest.mark.parametrize("function", ["relu", "jumprelu", "topk"])
def test_llamascopium(tmp_path: Path, function: str, rule: str, by_norm: bool) -> None:
    draw, hook = Draw(1), "blocks.2.hook_mlp_out"
    tensors: Tensors = {"W_E": draw(D, M), "b_E": draw(M), "W_D": draw(M, D)}
    if by_norm:
        tensors["b_D"] = draw(D)
    # Without dataset-wise normalisation the file holds whatever was in memory.
    tensors[f"dataset_average_activation_norm.{hook}"] = np.array(1.5 if rule == "dataset-wise" else np.nan, np.float32)
    if function == "jumprelu":
        tensors["activation_function.log_jumprelu_threshold"] = draw(M) * np.float32(0.5)
    config = {
        "sae_type": "sae",
        "d_model": D,
        "expansion_factor": M / D,
        "act_fn": function,
        "norm_activation": rule,
        "sparsity_include_decoder_norm": by_norm,
        "top_k": K,
        "hook_point_in": hook,
        "hook_point_out": hook,
        "use_decoder_bias": by_norm,
        "use_glu_encoder": False,
    }
    folder = store(tmp_path, tensors, config, weights="sae_weights.safetensors", config_file="config.json")
    t = doubles(tensors)
    token = np.sqrt(D) / np.linalg.norm(X, axis=1, keepdims=True)
    s = {"dataset-wise": np.sqrt(D) / 1.5, "token-wise": token, "inference": 1.0}[rule]
    pre = s * X @ t["W_E"] + t["b_E"]
    norm = np.linalg.norm(t["W_D"], axis=1) if by_norm else np.ones(M)
    if function == "relu":
        f = relu(pre)
    elif function == "topk":
        f = top(relu(pre * norm), K) / norm
    else:
        f = pre * (pre * norm > np.exp(t["activation_function.log_jumprelu_threshold"]))
    x_hat = (f @ t["W_D"] + t.get("b_D", 0)) / s
    # A topk that ranks by decoder norms has its latents in units of them.
    unit = norm if function == "topk" else 1.0
    agree(load_dictionary(folder, Hints(model="tiny")), rows(), f * unit, x_hat)
