"""Files of the other families against each family's own forward pass, written out in float64."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from foreign_files import D, Doubles, Draw, M, Tensors, agree, doubles, relu, rows, store, top

from monitor.errors import FeaturewatchError
from monitor.sae import Hints, HookPoint, load_dictionary

K = 4
X = rows().astype(np.float64)
HERE = Hints(hook_point=HookPoint(3), model="tiny")


# EleutherAI sparsify


@pytest.mark.parametrize("normalize_decoder", [True, False])
@pytest.mark.parametrize("activation", ["topk", "groupmax"])
def test_sparsify(tmp_path: Path, activation: str, normalize_decoder: bool) -> None:
    """b_dec is subtracted whatever normalize_decoder says, W_dec is [m, d]."""
    draw = Draw(1)
    tensors: Tensors = {
        "encoder.weight": draw(M, D),
        "encoder.bias": draw(M),
        "W_dec": draw(M, D),
        "b_dec": draw(D),
    }
    config = {
        "activation": activation,
        "expansion_factor": M // D,
        "normalize_decoder": normalize_decoder,
        "num_latents": 0,
        "k": K,
        "d_in": D,
    }
    folder = store(tmp_path / "run" / "layers.10", tensors, config, weights="sae.safetensors")
    (tmp_path / "run" / "config.json").write_text(json.dumps({"model": "HuggingFaceTB/SmolLM2-135M"}))
    t = doubles(tensors)
    pre = relu((X - t["b_dec"]) @ t["encoder.weight"].T + t["encoder.bias"])
    if activation == "topk":
        f = top(pre, K)
    else:
        groups = pre.reshape(len(X), K, M // K)
        f = np.where(groups == groups.max(axis=2, keepdims=True), groups, 0).reshape(pre.shape)
    sae = load_dictionary(folder)
    agree(sae, rows(), f, f @ t["W_dec"] + t["b_dec"])
    assert (sae.hook_point, sae.model) == (HookPoint(10), "HuggingFaceTB/SmolLM2-135M")


@pytest.mark.parametrize(
    ("name", "point"),
    [("h.3.mlp", HookPoint(3, "mlp_out")), ("layers.5.self_attn", HookPoint(5, "attn_out")), ("h.0", HookPoint(0))],
)
def test_sparsify_names_modules(tmp_path: Path, name: str, point: HookPoint) -> None:
    draw = Draw(1)
    tensors: Tensors = {"encoder.weight": draw(M, D), "encoder.bias": draw(M), "W_dec": draw(M, D), "b_dec": draw(D)}
    folder = store(tmp_path / name / "seed2", tensors, {"k": K, "d_in": D}, weights="sae.safetensors")
    assert load_dictionary(folder, Hints(model="tiny")).hook_point == point


# Gemma Scope


@pytest.mark.parametrize("lower", [True, False])
@pytest.mark.parametrize("embedding", [True, False])
def test_gemma_scope_outside_its_repository(tmp_path: Path, lower: bool, embedding: bool) -> None:
    draw = Draw(1)
    tensors: Tensors = {
        "W_enc": draw(D, M) * (3 if embedding else 1),
        "W_dec": draw(M, D),
        "b_enc": draw(M),
        "b_dec": draw(D),
        "threshold": draw.positive(M),
    }
    named = {f"w{name[1:]}" if lower and name.startswith("W") else name: tensor for name, tensor in tensors.items()}
    folder = store(tmp_path / ("embedding" if embedding else "layer_3"), named, weights="params.npz")
    t, root = doubles(tensors), np.sqrt(D) if embedding else 1.0
    pre = X @ (t["W_enc"] / root) + t["b_enc"]
    f = relu(pre) * (pre > t["threshold"])
    sae = load_dictionary(folder, Hints(model="google/gemma-2-2b") if embedding else HERE)
    agree(sae, rows(), f, f @ (t["W_dec"] * root) + t["b_dec"])
    assert sae.hook_point == (HookPoint(0, "resid_pre") if embedding else HookPoint(3))


@pytest.mark.parametrize(
    ("repository", "d", "point", "model"),
    [
        ("gemma-scope-2b-pt-res", 2304, HookPoint(20), "google/gemma-2-2b"),
        ("gemma-scope-9b-it-res", 3584, HookPoint(20), "google/gemma-2-9b-it"),
        ("gemma-scope-2b-pt-mlp", 2304, HookPoint(20, "mlp_out"), "google/gemma-2-2b"),
        ("gemma-scope-2b-pt-att", 2048, HookPoint(20, "attn_z"), "google/gemma-2-2b"),
    ],
)
def test_gemma_scope_says_all_else_in_its_path(
    tmp_path: Path, repository: str, d: int, point: HookPoint, model: str
) -> None:
    m = 1024
    tensors: Tensors = {
        "W_enc": np.zeros((d, m), np.float16),
        "W_dec": np.zeros((m, d), np.float16),
        "b_enc": np.zeros(m, np.float16),
        "b_dec": np.zeros(d, np.float16),
        "threshold": np.zeros(m, np.float16),
    }
    folder = tmp_path / "google" / repository / "layer_20" / "width_1k" / "average_l0_71"
    folder.mkdir(parents=True)
    np.savez(folder / "params.npz", **tensors)  # type: ignore[arg-type]
    sae = load_dictionary(folder)
    assert (sae.hook_point, sae.model, sae.metadata["l0"]) == (point, model, 71)
    folder.parent.rename(folder.parent.with_name("width_2k"))
    with pytest.raises(FeaturewatchError, match="latents 2048"):
        load_dictionary(folder.parents[1] / "width_2k" / "average_l0_71")


def test_gemma_scope_2(tmp_path: Path) -> None:
    draw = Draw(1)
    tensors: Tensors = {
        "w_enc": draw(D, M),
        "w_dec": draw(M, D),
        "b_enc": draw(M),
        "b_dec": draw(D),
        "threshold": draw.positive(M),
    }
    config = {
        "architecture": "jump_relu",
        "model_name": "google/gemma-3-1b-pt",
        "hf_hook_point_in": "model.layers.13.self_attn.o_proj.input",
        "affine_connection": False,
    }
    at = tmp_path / "gemma-scope-2-1b-pt" / "attn_out" / "layer_13_width_16k_l0_small"
    folder = store(at, tensors, config, weights="params.safetensors", config_file="config.json")
    t = doubles(tensors)
    pre = X @ t["w_enc"] + t["b_enc"]
    f = relu(pre) * (pre > t["threshold"])
    sae = load_dictionary(folder)
    agree(sae, rows(), f, f @ t["w_dec"] + t["b_dec"])
    assert (sae.hook_point, sae.model) == (HookPoint(13, "attn_z"), "google/gemma-3-1b-pt")
    (folder / "config.json").unlink()
    again = load_dictionary(folder)
    assert (again.hook_point, again.model) == (sae.hook_point, sae.model)


# dictionary_learning


def dictionary_learning(kind: str) -> tuple[Tensors, Doubles, Doubles]:
    """Tensors as the class stores them, and its encode and decode."""
    draw = Draw(1)
    linear: Tensors = {"encoder.weight": draw(M, D), "encoder.bias": draw(M), "decoder.weight": draw(D, M)}
    plain: Tensors = {"W_enc": draw(D, M), "b_enc": draw(M), "W_dec": draw(M, D), "b_dec": draw(D)}
    numbers: Tensors = {"k": np.array(K, np.int32), "threshold": np.array(0.75, np.float32)}
    tensors: Tensors = {
        "AutoEncoder": linear | {"bias": draw(D)},
        "AutoEncoderNew": linear | {"decoder.bias": draw(D)},
        "GatedAutoEncoder": {
            "encoder.weight": draw(M, D),
            "decoder.weight": draw(D, M),
            "decoder_bias": draw(D),
            "r_mag": draw(M) * np.float32(0.5),
            "gate_bias": draw(M),
            "mag_bias": draw(M),
        },
        "JumpReluAutoEncoder": plain | {"threshold": draw.positive(M)},
        "AutoEncoderTopK": linear | {"b_dec": draw(D)} | numbers,
        "BatchTopKSAE": linear | {"b_dec": draw(D)} | numbers,
        "MatryoshkaBatchTopKSAE": plain | numbers | {"group_sizes": np.array([4, 8, 12])},
    }[kind]
    t = doubles(tensors)
    bias = next((t[name] for name in ("bias", "decoder.bias", "decoder_bias", "b_dec") if name in t), np.zeros(D))
    shifted = X if kind in ("AutoEncoderNew", "JumpReluAutoEncoder") else X - bias
    w_enc = t["W_enc"] if "W_enc" in t else t["encoder.weight"].T
    w_dec = t["W_dec"] if "W_dec" in t else t["decoder.weight"].T
    z = shifted @ w_enc
    if kind == "GatedAutoEncoder":
        f = (z + t["gate_bias"] > 0) * relu(np.exp(t["r_mag"]) * z + t["mag_bias"])
    else:
        pre = z + (t["b_enc"] if "b_enc" in t else t["encoder.bias"])
        if kind == "AutoEncoderTopK":
            f = top(relu(pre), K)
        elif "threshold" in t:
            f = relu(pre) * (pre > t["threshold"])
        else:
            f = relu(pre)
    return tensors, f, f @ w_dec + bias


@pytest.mark.parametrize(
    "kind",
    [
        "AutoEncoder",
        "AutoEncoderNew",
        "GatedAutoEncoder",
        "JumpReluAutoEncoder",
        "AutoEncoderTopK",
        "BatchTopKSAE",
        "MatryoshkaBatchTopKSAE",
    ],
)
def test_dictionary_learning(tmp_path: Path, kind: str) -> None:
    tensors, f, x_hat = dictionary_learning(kind)
    trainer = {
        "dict_class": kind,
        "activation_dim": D,
        "dict_size": M,
        "lm_name": "EleutherAI/pythia-70m-deduped",
        "layer": 3,
        "submodule_name": "resid_post_layer_3",
    }
    folder = store(tmp_path / "trainer_0", tensors, {"trainer": trainer}, weights="ae.pt", config_file="config.json")
    sae = load_dictionary(folder)
    agree(sae, rows(), f, x_hat)
    assert (sae.hook_point, sae.model) == (HookPoint(3), "EleutherAI/pythia-70m-deduped")
    (folder / "config.json").unlink()
    if kind in ("AutoEncoderTopK", "BatchTopKSAE"):
        with pytest.raises(FeaturewatchError, match=r"AutoEncoderTopK and BatchTopKSAE.*dict_class"):
            load_dictionary(folder, HERE)
    else:
        agree(load_dictionary(folder, HERE), rows(), f, x_hat)


def test_tensors_count_more_than_the_dict_class_that_a_trainer_wrote(tmp_path: Path) -> None:
    """StandardTrainerAprilUpdate writes AutoEncoder whatever it trained."""
    tensors, f, x_hat = dictionary_learning("AutoEncoderNew")
    config = {"trainer": {"dict_class": "AutoEncoder", "activation_dim": D, "dict_size": M}}
    folder = store(tmp_path, tensors, config, weights="ae.pt", config_file="config.json")
    sae = load_dictionary(folder, HERE)
    agree(sae, rows(), f, x_hat)
    assert sae.metadata["dict_class"] == "AutoEncoderNew"
    (folder / "config.json").write_text(json.dumps({"trainer": {"dict_class": "PAnnealAutoEncoder"}}))
    with pytest.raises(FeaturewatchError, match="PAnnealAutoEncoder"):
        load_dictionary(folder, HERE)


# OpenAI


@pytest.mark.parametrize("activation", ["TopK", "ReLU"])
def test_openai(tmp_path: Path, activation: str) -> None:
    draw = Draw(1)
    tensors: Tensors = {
        "pre_bias": draw(D),
        "encoder.weight": draw(M, D),
        "latent_bias": draw(M),
        "decoder.weight": draw(D, M),
        "stats_last_nonzero": np.zeros(M, np.int64),
        "latents_activation_frequency": np.zeros(M, np.int64),
        "latents_mean_square": np.full(M, np.nan, np.float32),
    }
    state: dict[str, Any] = {name: torch.from_numpy(tensor) for name, tensor in tensors.items()}
    state["activation"] = activation
    if activation == "TopK":
        state["activation_state_dict"] = {"k": K, "postact_fn": "ReLU"}
    folder = tmp_path / "gpt2-small" / "resid_post_mlp_v5_32k" / "autoencoders"
    folder.mkdir(parents=True)
    torch.save(state, folder / "6.pt")
    t = doubles(tensors)
    mean, std = X.mean(1, keepdims=True), X.std(1, ddof=1, keepdims=True)
    if activation == "TopK":
        pre = ((X - mean) / (std + 1e-5) - t["pre_bias"]) @ t["encoder.weight"].T + t["latent_bias"]
        f = relu(top(pre, K))
        x_hat = (f @ t["decoder.weight"].T + t["pre_bias"]) * std + mean
    else:
        f = relu((X - t["pre_bias"]) @ t["encoder.weight"].T + t["latent_bias"])
        x_hat = f @ t["decoder.weight"].T + t["pre_bias"]
    sae = load_dictionary(folder / "6.pt")
    agree(sae, rows(), f, x_hat)
    assert (sae.hook_point, sae.model) == (HookPoint(6), "gpt2-small")


# One-file releases


def test_qwen_scope(tmp_path: Path) -> None:
    draw, m = Draw(1), 1024
    tensors: Tensors = {"W_enc": draw(m, D), "W_dec": draw(D, m), "b_enc": draw(m), "b_dec": draw(D)}
    folder = store(tmp_path / "Qwen" / "SAE-Res-Qwen3-8B-Base-W1K-L0_100", tensors, weights="layer12.sae.pt")
    t = doubles(tensors)
    f = top(relu(X @ t["W_enc"].T + t["b_enc"]), 100)
    sae = load_dictionary(folder / "layer12.sae.pt")
    agree(sae, rows(), f, f @ t["W_dec"].T + t["b_dec"])
    assert (sae.hook_point, sae.model) == (HookPoint(12), "Qwen/Qwen3-8B-Base")
    elsewhere = store(tmp_path / "copy", tensors, weights="sae.pt")
    for hints, asked in [
        (Hints(), "--k"),
        (Hints(k=100), "--hook-point"),
        (Hints(k=100, hook_point=HookPoint(1)), "--model-name"),
    ]:
        with pytest.raises(FeaturewatchError, match=asked):
            load_dictionary(elsewhere, hints)
    agree(load_dictionary(elsewhere, Hints(HookPoint(1), "tiny", 100)), rows(), f, f @ t["W_dec"].T + t["b_dec"])


def test_goodfire(tmp_path: Path) -> None:
    draw = Draw(1)
    tensors: Tensors = {
        "encoder_linear.weight": draw(M, D),
        "encoder_linear.bias": draw(M),
        "decoder_linear.weight": draw(D, M),
        "decoder_linear.bias": draw(D),
    }
    store(tmp_path, tensors, weights="Llama-3.1-8B-Instruct-SAE-l19.pth")
    t = doubles(tensors)
    f = relu(X @ t["encoder_linear.weight"].T + t["encoder_linear.bias"])
    sae = load_dictionary(tmp_path)
    agree(sae, rows(), f, f @ t["decoder_linear.weight"].T + t["decoder_linear.bias"])
    assert (sae.hook_point, sae.model) == (HookPoint(19), "meta-llama/Llama-3.1-8B-Instruct")
