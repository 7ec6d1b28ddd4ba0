"""Files in the layout of families without a package, read by sae-lens' readers and by ours.

Its readers ask the Hub for each file; here they get a local one. They state real widths, which are overridden. Its
reader of sparsify is left out: it transposes W_dec although that lies [m, d], and cannot load present files.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from comparison import D, K, M, agree, rows
from sae_lens import SAE
from sae_lens.loading import pretrained_sae_loaders as readers
from safetensors.torch import save_file

from monitor.sae import Hints, HookPoint, load_dictionary

SIZES = {"d_in": D, "d_sae": M}


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that stands for every repository."""

    def download(repo_id: str, filename: str, subfolder: str | None = None, **_: Any) -> str:
        return str(tmp_path / (subfolder or "") / filename)

    monkeypatch.setattr(readers, "hf_hub_download", download)
    monkeypatch.setattr(readers, "get_safetensors_tensor_shapes", lambda *_: {"w_enc": [D, M], "w_dec": [M, D]})
    return tmp_path


def drawn(**shapes: tuple[int, ...]) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def linear() -> dict[str, torch.Tensor]:
    """Two linear layers as torch stores them."""
    shapes = {"encoder.weight": (M, D), "encoder.bias": (M,), "decoder.weight": (D, M), "decoder.bias": (D,)}
    return drawn(**shapes)


def built(read: tuple[dict[str, Any], dict[str, torch.Tensor], Any], factor: float | None = None) -> Any:
    """What SAE.from_pretrained makes of a reader's result."""
    config, state, _ = read
    config = readers.handle_config_defaulting({**config, "dtype": "float32"})
    sae = SAE.from_dict(config)
    sae.process_state_dict_for_loading(state)
    sae.load_state_dict({name: tensor.float() for name, tensor in state.items()})
    if factor is not None:
        sae.fold_activation_norm_scaling_factor(factor)
    return sae


def compare(ours: Any, theirs: Any) -> None:
    codes = theirs.encode(rows())
    agree(ours, rows(), codes, theirs.decode(codes))
    assert ours.hook_point.transformer_lens_name in (theirs.cfg.metadata.hook_name, "blocks.0.hook_resid_pre")


@pytest.mark.parametrize("folder", ["layer_20/width_16k/average_l0_71", "embedding/width_4k/average_l0_6"])
def test_gemma_scope(repository: Path, folder: str) -> None:
    tensors = drawn(W_enc=(D, M), W_dec=(M, D), b_enc=(M,), b_dec=(D,), threshold=(M,))
    tensors["threshold"].abs_()
    tensors["W_enc"] *= 3
    (repository / folder).mkdir(parents=True)
    arrays: dict[str, Any] = {name: tensor.numpy() for name, tensor in tensors.items()}
    np.savez(repository / folder / "params.npz", **arrays)
    theirs = readers.gemma_2_sae_huggingface_loader("google/gemma-scope-2b-pt-res", folder, cfg_overrides=SIZES)
    # Our reader knows the width of 16k, which these are not.
    plain = repository / ("embedding" if "embedding" in folder else "plain")
    plain.mkdir(exist_ok=True)
    (repository / folder / "params.npz").rename(plain / "params.npz")
    point = HookPoint(0, "resid_pre") if "embedding" in folder else HookPoint(20)
    compare(load_dictionary(plain, Hints(point, "google/gemma-2-2b")), built(theirs))


@pytest.mark.parametrize(("site", "module"), [("resid_post", "output"), ("attn_out", "self_attn.o_proj.input")])
def test_gemma_scope_2(repository: Path, site: str, module: str) -> None:
    tensors = drawn(w_enc=(D, M), w_dec=(M, D), b_enc=(M,), b_dec=(D,), threshold=(M,))
    tensors["threshold"].abs_()
    folder = f"{site}/layer_13_width_16k_l0_small"
    (repository / folder).mkdir(parents=True)
    save_file(tensors, repository / folder / "params.safetensors")
    config = {
        "architecture": "jump_relu",
        "model_name": "gemma-v3-270m-pt",
        "hf_hook_point_in": f"model.layers.13.{module}",
    }
    (repository / folder / "config.json").write_text(json.dumps(config))
    theirs = built(readers.gemma_3_sae_huggingface_loader("google/gemma-scope-2-270m-pt", folder))
    ours = load_dictionary(repository / folder)
    compare(ours, theirs)
    assert ours.model == theirs.cfg.metadata.model_name == "google/gemma-3-270m"


def test_goodfire(repository: Path) -> None:
    name = "Llama-3.1-8B-Instruct-SAE-l19"
    tensors = {key.replace(".", "_linear."): tensor for key, tensor in linear().items()}
    torch.save(tensors, repository / f"{name}.pth")
    theirs = readers.get_goodfire_huggingface_loader(f"Goodfire/{name}", f"{name}.pth", cfg_overrides=SIZES)
    compare(load_dictionary(repository / f"{name}.pth"), built(theirs))


def test_llama_scope(repository: Path) -> None:
    name = "Llama3_1-8B-Base-L13R-8x"
    (repository / name / "checkpoints").mkdir(parents=True)
    # Kept to what bfloat16 holds, which is what is published.
    tensors = {key: tensor.bfloat16() for key, tensor in linear().items()}
    save_file(tensors, repository / name / "checkpoints" / "final.safetensors")
    # Chosen so that the threshold on the scaled data is a bfloat16 too: sae-lens rounds it to one.
    norm = D**0.5 / 0.5
    config = {
        "d_model": D,
        "d_sae": M,
        "act_fn": "jumprelu",
        "jump_relu_threshold": 2.5,
        "norm_activation": "dataset-wise",
        "dataset_average_activation_norm": {"in": norm, "out": norm},
        "hook_point_in": "blocks.13.hook_resid_post",
        "hook_point_out": "blocks.13.hook_resid_post",
    }
    (repository / name / "hyperparams.json").write_text(json.dumps(config))
    theirs = readers.llama_scope_sae_huggingface_loader("fnlp/Llama3_1-8B-Base-LXR-8x", name)
    compare(load_dictionary(repository / name), built(theirs, factor=0.5))


def test_llama_scope_r1_distill(repository: Path) -> None:
    folder = repository / "L15R"
    folder.mkdir()
    tensors = linear() | drawn(log_jumprelu_threshold=(M,))
    save_file(tensors, folder / "sae_weights.safetensors")
    config = {"d_model": D, "expansion_factor": M // D, "hook_point_in": "blocks.15.hook_resid_post"}
    (folder / "config.json").write_text(json.dumps(config))
    theirs = readers.llama_scope_r1_distill_sae_huggingface_loader("fnlp/Llama-Scope-R1-Distill", "L15R")
    compare(load_dictionary(folder, Hints(norm_factor=1.75)), built(theirs, factor=1.75))


def test_qwen_scope(repository: Path) -> None:
    name = f"SAE-Res-Qwen3-8B-Base-W1K-L0_{K}"
    tensors = drawn(W_enc=(1024, D), W_dec=(D, 1024), b_enc=(1024,), b_dec=(D,))
    (repository / name).mkdir()
    for path in (repository / "layer12.sae.pt", repository / name / "layer12.sae.pt"):
        torch.save(tensors, path)
    theirs = built(
        readers.qwen_scope_sae_huggingface_loader(f"Qwen/{name}", "layer12.sae.pt", cfg_overrides={"d_in": D})
    )
    ours = load_dictionary(repository / name / "layer12.sae.pt")
    codes = theirs.encode(rows())
    np.testing.assert_allclose(ours.encode(rows().numpy()), codes.detach().numpy(), atol=1e-4)
    np.testing.assert_allclose(
        ours.reconstruct(rows().numpy()), theirs.decode(codes).detach().numpy(), atol=1e-2, rtol=1e-3
    )
    assert ours.model == theirs.cfg.metadata.model_name


@pytest.mark.parametrize(
    "config",
    [
        {"hook_point": "blocks.7.hook_resid_pre", "activation_fn_str": "relu", "normalize_activations": None},
        {"hook_name": "blocks.7.hook_mlp_out", "activation_fn": "topk", "activation_fn_kwargs": {"k": K}},
        {"hook_name": "blocks.7.hook_resid_post", "normalize_activations": False, "apply_b_dec_to_input": False},
        {"hook_name": "blocks.7.hook_resid_post", "normalize_activations": "layer_norm", "sae_lens_version": "5.9.1"},
    ],
)
def test_sae_lens_before_version_6(tmp_path: Path, config: dict[str, Any]) -> None:
    save_file(drawn(W_enc=(D, M), W_dec=(M, D), b_enc=(M,), b_dec=(D,)), tmp_path / "sae_weights.safetensors")
    common = {"model_name": "gpt2-small", "d_in": D, "d_sae": M, "dtype": "torch.float32", "device": "cpu"}
    (tmp_path / "cfg.json").write_text(json.dumps(common | {"hook_point_head_index": None} | config))
    ours, theirs = load_dictionary(tmp_path), SAE.load_from_disk(tmp_path)
    compare(ours, theirs)
    assert ours.model == theirs.cfg.metadata.model_name
