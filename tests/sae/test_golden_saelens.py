"""SAELens files of every architecture against the forward pass of sae-lens 6, written out in float64."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from foreign_files import D, Doubles, Draw, M, Tensors, agree, doubles, relu, rows, store, top

from monitor.errors import FeaturewatchError
from monitor.sae import Hints, HookPoint, TopK, load_dictionary, load_saelens

METADATA = {"sae_lens_version": "6.54.12", "hook_name": "blocks.3.hook_resid_post", "model_name": "tiny"}
K = 5


def weights(*, architecture: str = "standard") -> Tensors:
    draw = Draw(1)
    tensors: Tensors = {"W_enc": draw(D, M), "W_dec": draw(M, D), "b_dec": draw(D)}
    if architecture == "gated":
        return tensors | {"b_gate": draw(M), "b_mag": draw(M), "r_mag": draw(M) * np.float32(0.5)}
    tensors["b_enc"] = draw(M)
    if architecture == "jumprelu":
        tensors["threshold"] = draw.positive(M)
    return tensors


def folder(at: Path, tensors: Tensors, **config: Any) -> Path:
    settings = {"d_in": D, "d_sae": M, "dtype": "float32", "metadata": METADATA, **config}
    return store(at, tensors, settings, weights="sae_weights.safetensors")


def forward(tensors: Tensors, config: dict[str, Any], factor: float = 1.0) -> tuple[Doubles, Doubles]:
    """process_sae_in, encode and decode of sae-lens 6 on `rows()`, on data multiplied by `factor`."""
    t, x = doubles(tensors), rows().astype(np.float64)
    mean, std, norm = (
        x.mean(1, keepdims=True),
        x.std(1, ddof=1, keepdims=True),
        np.linalg.norm(x, axis=1, keepdims=True),
    )
    rule = config.get("normalize_activations", "none")
    shift, scale = 0.0, 1 / factor
    if rule == "layer_norm":
        x, shift, scale = (x - mean) / (std + 1e-5), mean, std
    elif rule == "constant_norm_rescale":
        x, scale = x * np.sqrt(D) / norm, norm / np.sqrt(D)
    else:
        x = x * factor
    if config.get("apply_b_dec_to_input", True):
        x = x - t["b_dec"]
    w_norm = np.linalg.norm(t["W_dec"], axis=1) if config.get("rescale_acts_by_decoder_norm") else np.ones(M)
    architecture = config.get("architecture", "standard")
    if architecture == "gated":
        gate = x @ t["W_enc"] + t["b_gate"] > 0
        f = gate * relu(x @ (t["W_enc"] * np.exp(t["r_mag"])) + t["b_mag"])
    else:
        pre = (x @ t["W_enc"] + t["b_enc"]) * w_norm
        if architecture == "topk":
            f = relu(top(pre, config["k"]))
        elif "topk_threshold" in t:
            f = relu(pre) * (pre > t["topk_threshold"])
        elif "threshold" in t or "log_threshold" in t:
            f = relu(pre) * (pre > (t["threshold"] if "threshold" in t else np.exp(t["log_threshold"])))
        else:
            f = relu(pre)
    return f, (f / w_norm * t.get("scaling_factor", np.ones(M)) @ t["W_dec"] + t["b_dec"]) * scale + shift


@pytest.mark.parametrize("subtracts", [True, False])
@pytest.mark.parametrize("rule", ["none", "layer_norm", "constant_norm_rescale"])
@pytest.mark.parametrize("architecture", ["standard", "jumprelu", "gated", "topk"])
def test_every_architecture_under_every_normalisation(
    tmp_path: Path, architecture: str, rule: str, subtracts: bool
) -> None:
    tensors = weights(architecture=architecture)
    config = {"architecture": architecture, "normalize_activations": rule, "apply_b_dec_to_input": subtracts, "k": K}
    sae = load_saelens(folder(tmp_path, tensors, **config))
    agree(sae, rows(), *forward(tensors, config))
    assert (sae.hook_point, sae.model) == (HookPoint(3), "tiny")


def test_topk_that_ranks_by_decoder_norms(tmp_path: Path) -> None:
    tensors = weights()
    config = {"architecture": "topk", "k": K, "rescale_acts_by_decoder_norm": True}
    sae = load_saelens(folder(tmp_path, tensors, **config))
    agree(sae, rows(), *forward(tensors, config))
    plain, _ = forward(tensors, config | {"rescale_acts_by_decoder_norm": False})
    assert ((plain > 0) != (sae.encode(rows()) > 0)).any()
    np.testing.assert_allclose(np.linalg.norm(sae.w_dec_md, axis=1), 1, rtol=1e-5)


@pytest.mark.parametrize("architecture", ["batchtopk", "matryoshka_batchtopk"])
def test_a_training_checkpoint_whose_normalisation_is_not_folded_yet(tmp_path: Path, architecture: str) -> None:
    tensors = weights() | {"topk_threshold": np.array(1.25)}
    config = {
        "architecture": architecture,
        "k": 5.0,
        "rescale_acts_by_decoder_norm": True,
        "normalize_activations": "expected_average_only_in",
    }
    factor = 0.5
    path = folder(tmp_path, tensors, **config)
    (path / "activation_scaler.json").write_text(json.dumps({"scaling_factor": factor, "has_whitening": False}))
    f_nm, x_hat_nd = forward(tensors, config, factor)
    # Folding divides the decoder by the factor, and these latents are in units of its rows.
    agree(load_dictionary(path), rows(), f_nm / factor, x_hat_nd)


def test_the_factor_of_an_old_release_is_given_by_the_caller(tmp_path: Path) -> None:
    tensors = weights()
    config = {"normalize_activations": "expected_average_only_in"}
    path = folder(tmp_path, tensors, **config)
    agree(load_dictionary(path, Hints(norm_factor=3.5)), rows(), *forward(tensors, config, 3.5))


def test_log_thresholds_of_old_checkpoints(tmp_path: Path) -> None:
    tensors = weights() | {"log_threshold": Draw(2)(M)}
    agree(
        load_saelens(folder(tmp_path, tensors, architecture="jumprelu")),
        rows(),
        *forward(tensors, {"architecture": "jumprelu"}),
    )


def test_configurations_before_version_6(tmp_path: Path) -> None:
    tensors = weights() | {"scaling_factor": Draw(3).positive(M)}
    config = {
        "model_name": "gpt2-small",
        "hook_point": "blocks.7.hook_resid_pre",
        "hook_point_head_index": None,
        "d_in": D,
        "d_sae": M,
        "dtype": "torch.float32",
        "normalize_activations": None,
        "finetuning_scaling_factor": True,
        "activation_fn_str": "topk",
        "activation_fn_kwargs": {"k": K},
    }
    store(tmp_path, tensors, config, weights="sae_weights.safetensors")
    sae = load_dictionary(tmp_path)
    assert (sae.hook_point, sae.model, sae.activation) == (HookPoint(7, "resid_pre"), "gpt2-small", TopK(K))
    agree(sae, rows(), *forward(tensors, {"architecture": "topk", "k": K}))


@pytest.mark.parametrize(("flag", "hints"), [(False, None), (True, Hints(norm_factor=2.0))])
def test_normalisation_as_a_flag(tmp_path: Path, flag: bool, hints: Hints | None) -> None:
    tensors = weights()
    config = {"hook_name": "blocks.1.hook_mlp_out", "d_in": D, "d_sae": M, "normalize_activations": flag}
    store(tmp_path, tensors, config, weights="sae_weights.safetensors")
    agree(load_dictionary(tmp_path, hints), rows(), *forward(tensors, {}, 2.0 if flag else 1.0))


def test_heads_lie_side_by_side(tmp_path: Path) -> None:
    tensors = weights()
    metadata = METADATA | {"hook_name": "blocks.2.attn.hook_z"}
    sae = load_saelens(folder(tmp_path, tensors, reshape_activations="hook_z", metadata=metadata))
    assert sae.hook_point == HookPoint(2, "attn_z")
    agree(sae, rows(), *forward(tensors, {}))


def test_bfloat16_weights_are_read_without_torch(tmp_path: Path) -> None:
    tensors = weights()
    rounded = {name: (tensor.view(np.uint32) >> 16).astype(np.uint16) for name, tensor in tensors.items()}
    folder(tmp_path, tensors)
    header: dict[str, Any] = {}
    data = b""
    for name, tensor in rounded.items():
        header[name] = {"dtype": "BF16", "shape": tensor.shape, "data_offsets": [len(data), len(data) + tensor.nbytes]}
        data += tensor.tobytes()
    text = json.dumps(header).encode()
    (tmp_path / "sae_weights.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + data)
    kept = {name: (tensor.astype(np.uint32) << 16).view(np.float32) for name, tensor in rounded.items()}
    agree(load_saelens(tmp_path), rows(), *forward(kept, {}))


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_other_floats(tmp_path: Path, dtype: type[np.floating[Any]]) -> None:
    tensors: Tensors = {name: tensor.astype(dtype) for name, tensor in weights().items()}
    agree(load_saelens(folder(tmp_path, tensors)), rows(), *forward(tensors, {}))


def test_a_hook_point_that_contradicts_the_file_is_refused(tmp_path: Path) -> None:
    folder(tmp_path, weights())
    with pytest.raises(FeaturewatchError, match=r"resid_post\.4.*trained at blocks\.3\.hook_resid_post"):
        load_dictionary(tmp_path, Hints(hook_point=HookPoint(4)))
    assert load_dictionary(tmp_path, Hints(hook_point=HookPoint(3), model="other")).model == "other"


def test_an_embedding_needs_the_site_by_argument(tmp_path: Path) -> None:
    folder(tmp_path, weights(), metadata=METADATA | {"hook_name": "hook_embed"})
    with pytest.raises(FeaturewatchError, match="'hook_embed'"):
        load_dictionary(tmp_path)
    point = HookPoint(0, "resid_pre")
    assert load_dictionary(tmp_path, Hints(hook_point=point)).hook_point == point
