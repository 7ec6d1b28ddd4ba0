"""Every site of a layer is what its name says, in every family; what cannot be told is refused."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

from monitor.errors import FeaturewatchError
from monitor.sae import HookPoint
from monitor.sae.hook_point import SITES
from training.harvest.model_config import ModelConfig
from training.harvest.network import find_layers
from training.harvest.residuals import ResidualModel
from training.harvest.widths import site_widths

LAYERS = 3
TOKENS_BT = np.random.default_rng(0).integers(0, 60, (2, 12))
SHAPE = {
    "vocab_size": 60,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
WIDE = {"head_dim": 16}
GPT = {"vocab_size": 60, "n_embd": 32, "n_layer": LAYERS, "n_head": 4, "n_positions": 64, "pad_token_id": 0}
# Family, settings, and the norm that reads the stream between the halves; None where both halves read the same.
FAMILIES = {
    "llama": (SHAPE, "post_attention_layernorm"),
    "qwen3": ({**SHAPE, **WIDE}, "post_attention_layernorm"),
    "gemma2": ({**SHAPE, **WIDE}, "pre_feedforward_layernorm"),
    "gemma3_text": ({**SHAPE, **WIDE}, "pre_feedforward_layernorm"),
    "olmo2": (SHAPE, ""),
    "glm4": ({**SHAPE, **WIDE}, "post_attention_layernorm"),
    "mixtral": ({**SHAPE, "num_local_experts": 4}, "post_attention_layernorm"),
    "granite": ({**SHAPE, "residual_multiplier": 0.22}, "post_attention_layernorm"),
    "gpt2": (GPT, "ln_2"),
    "gptj": ({**GPT, "rotary_dim": 4}, None),
    "gpt_neox": (SHAPE, None),
    "phi": (SHAPE, None),
    "falcon": ({**SHAPE, "new_decoder_architecture": True, "num_kv_heads": 2}, None),
    "opt": ({**SHAPE, "ffn_dim": 48, "word_embed_proj_dim": 32}, "final_layer_norm"),
}
POINTS = [HookPoint(layer, site) for layer in (0, LAYERS - 1) for site in SITES]


def _saved(folder: Path, family: str, settings: dict[str, object]) -> Path:
    torch.manual_seed(0)
    network = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **settings))
    for name, weights in network.named_parameters():
        if weights.ndim > 1 or "norm" in name or "ln_" in name:  # random gains: a norm left out must not pass
            nn.init.normal_(weights, 1.0 if weights.ndim == 1 else 0.0, 0.3)
    network.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def folder(family: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _saved(tmp_path_factory.mktemp(family), family, FAMILIES[family][0])


@pytest.fixture(scope="module")
def rows(folder: Path) -> dict[HookPoint, Tensor]:
    return ResidualModel(str(folder), POINTS, "float32").residuals(TOKENS_BT)


@pytest.fixture(scope="module")
def network(folder: Path) -> nn.Module:
    return AutoModel.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()


def _close(got: Tensor, want: Tensor) -> None:
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4 * float(want.abs().mean()))


def test_the_stream_is_the_one_of_hugging_face(rows: dict[HookPoint, Tensor], network: nn.Module) -> None:
    with torch.inference_mode():
        states = network(torch.from_numpy(TOKENS_BT), output_hidden_states=True, use_cache=False).hidden_states
    for layer in (0, LAYERS - 1):
        _close(rows[HookPoint(layer, "resid_pre")], states[layer])
    _close(rows[HookPoint(0, "resid_post")], states[1])


def test_both_halves_add_up_to_the_layer(rows: dict[HookPoint, Tensor]) -> None:
    for layer in (0, LAYERS - 1):
        before, attention, mlp, after = (
            rows[HookPoint(layer, site)] for site in ("resid_pre", "attn_out", "mlp_out", "resid_post")
        )
        _close(before + attention + mlp, after)
        assert attention.norm() > 0.01 * after.norm()
        assert mlp.norm() > 0.01 * after.norm()


def test_each_half_is_its_own(family: str, folder: Path, rows: dict[HookPoint, Tensor], network: nn.Module) -> None:
    """The norm between the halves reads the stream with what the attention added; the output projection reads z."""
    layer = LAYERS - 1
    block = find_layers(network, str(folder))[layer]
    attention = next(
        getattr(block, name) for name in ("self_attn", "attn", "attention", "self_attention") if hasattr(block, name)
    )
    seen: dict[str, Tensor] = {}
    attention.register_forward_hook(lambda _m, _i, output: seen.update(attention=output[0].clone()))
    middle = FAMILIES[family][1]
    if middle:
        getattr(block, middle).register_forward_pre_hook(lambda _m, inputs: seen.update(middle=inputs[0]))
    with torch.inference_mode():
        network(torch.from_numpy(TOKENS_BT), use_cache=False)
        projection = next(
            module for name, module in attention.named_modules() if name in ("o_proj", "out_proj", "c_proj", "dense")
        )
        _close(projection(rows[HookPoint(layer, "attn_z")]), seen["attention"])
    added = rows[HookPoint(layer, "attn_out")]
    if middle:
        _close(rows[HookPoint(layer, "resid_pre")] + added, seen["middle"].reshape(added.shape))
    elif middle is None:
        _close(added, seen["attention"])


def test_widths_are_known_before_and_after_loading(family: str, folder: Path, rows: dict[HookPoint, Tensor]) -> None:
    known = site_widths(ModelConfig.read(str(folder)), POINTS)
    assert known == {point: tensor.shape[-1] for point, tensor in rows.items()}
    wide = FAMILIES[family][0].get("head_dim") is not None
    assert known[HookPoint(0, "attn_z")] == (64 if wide else 32)


@pytest.mark.parametrize("site", SITES)
def test_nothing_behind_the_last_site_is_run(tiny_model: Path, site: str) -> None:
    model = ResidualModel(str(tiny_model), [HookPoint(0), HookPoint(1, site)], "float32")
    calls: list[str] = []
    for name, module in model._network.named_modules():
        module.register_forward_hook(lambda _m, _i, _o, name=name: calls.append(name))
    found = model.residuals(np.ones((1, 4), np.int64))
    assert set(found) == {HookPoint(0), HookPoint(1, site)}
    ran = {call.partition("layers.1.")[2] for call in calls if call.startswith("layers.1")}
    # The hook that stops the pass comes before the one that counts.
    last = {"resid_pre": 0, "attn_z": 1, "attn_out": 2, "mlp_out": 3, "resid_post": 4}[site]
    in_order = ["self_attn.v_proj", "self_attn.o_proj", "mlp.up_proj", "mlp"]
    assert [name in ran for name in in_order] == [index < last for index in range(4)]
    assert "norm" not in calls  # the final one


def test_two_batches_of_one_model_do_not_share_rows(tiny_model: Path) -> None:
    model = ResidualModel(str(tiny_model), [HookPoint(1, "attn_out")], "float32")
    first, second = (model.residuals(np.full((1, 5), token))[HookPoint(1, "attn_out")] for token in (7, 8))
    again = model.residuals(np.full((1, 5), 7))[HookPoint(1, "attn_out")]
    assert torch.equal(first, again)
    assert not torch.equal(first, second)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_halves_that_do_not_add_up_are_refused(tmp_path: Path, dtype: str) -> None:
    """An OPT whose norms are behind the sum, as in its 350m variant."""
    settings = {**FAMILIES["opt"][0], "do_layer_norm_before": False}
    folder = str(_saved(tmp_path, "opt", settings))
    ResidualModel(folder, [HookPoint(1)], dtype)
    for site in ("attn_out", "mlp_out"):
        with pytest.raises(FeaturewatchError, match=r"is not its output, .* Use resid_pre\.1 or resid_post\.1"):
            ResidualModel(folder, [HookPoint(1, site)], dtype)


def test_a_layer_without_attention_is_refused_before_loading(tmp_path: Path) -> None:
    settings = {"vocab_size": 60, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 4}
    transformers.MambaModel(transformers.MambaConfig(**settings)).save_pretrained(tmp_path)
    config = ModelConfig.read(str(tmp_path))
    for site in ("attn_z", "attn_out", "mlp_out"):
        with pytest.raises(
            FeaturewatchError, match=rf"hook point '{site}\.1' of .* MambaBlock, which holds norm, mixer"
        ):
            site_widths(config, [HookPoint(1, site)])
    assert site_widths(config, [HookPoint(1, "resid_pre")]) == {HookPoint(1, "resid_pre"): 32}


def test_names_agree_with_transformer_lens() -> None:
    for layer, site in itertools.product((0, 11), SITES):
        point = HookPoint(layer, site)
        assert HookPoint.from_foreign(point.transformer_lens_name) == point
    assert HookPoint(3, "attn_z").transformer_lens_name == "blocks.3.attn.hook_z"
    assert HookPoint(3, "mlp_out").transformer_lens_name == "blocks.3.hook_mlp_out"
