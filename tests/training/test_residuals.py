"""A residual row belongs to the layer and the token whose name it bears."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from toy_saes import exact_sae
from transformers import (
    AutoModelForCausalLM,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    LlavaConfig,
)

from monitor.errors import FeaturewatchError
from monitor.sae import HookPoint
from training.evaluation.splice import measure_splice
from training.harvest.model_config import ModelConfig
from training.harvest.residuals import ResidualModel
from training.harvest.tokens import Reason, TokenSequence

LAYERS = 4
TOKENS_BT = np.random.default_rng(0).integers(0, 90, (3, 24))


@pytest.fixture(scope="module", params=["llama", "gpt2", "gemma3"])
def model(request: pytest.FixtureRequest, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three shapes of model: layers at the top, under `h`, and nested with their configuration in `text_config`."""
    if request.param == "llama":
        return tiny_model
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "gpt2":
        config = GPT2Config(vocab_size=90, n_embd=32, n_layer=LAYERS, n_head=4, initializer_range=0.3)
        config.bos_token_id = config.eos_token_id = 0
        GPT2LMHeadModel(config).save_pretrained(folder)
    else:
        Gemma3ForConditionalGeneration(_gemma()).save_pretrained(folder)
    return folder


def _gemma() -> Gemma3Config:
    text = Gemma3TextConfig(
        vocab_size=90,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=128,
    )
    vision = {
        "model_type": "siglip_vision_model",
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 28,
        "patch_size": 14,
    }
    return Gemma3Config(text_config=text.to_dict(), vision_config=vision, mm_tokens_per_image=4)


@pytest.fixture(scope="module")
def reference(model: Path) -> list[np.ndarray]:
    """The residual stream after 0 to 4 layers, [b, t, d] each: the last one is what the final norm is given."""
    network = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
    text = getattr(network.base_model, "language_model", network.base_model)
    final_norm = text.ln_f if hasattr(text, "ln_f") else text.norm
    seen: list[torch.Tensor] = []
    final_norm.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))
    with torch.inference_mode():
        states = network(torch.from_numpy(TOKENS_BT), output_hidden_states=True).hidden_states
        np.testing.assert_allclose(final_norm(seen[0]).numpy(), states[LAYERS].numpy(), rtol=1e-4, atol=1e-4)
    return [*(state.numpy() for state in states[:LAYERS]), seen[0].numpy()]


@pytest.mark.parametrize("layers", [(0, 1, 2, 3), (3,), (0,), (1, 2)])
def test_rows_are_those_after_the_layer_token_by_token(
    model: Path, reference: list[np.ndarray], layers: tuple[int, ...]
) -> None:
    """Also for the last layer, and whatever other layers are read in the same pass."""
    harvested = ResidualModel(str(model), [HookPoint(layer) for layer in layers], "float32").residuals(TOKENS_BT)
    assert list(harvested) == [HookPoint(layer) for layer in layers]
    for layer in layers:
        rows_btd = harvested[HookPoint(layer)].numpy()
        scale = np.abs(rows_btd).mean()
        np.testing.assert_allclose(rows_btd, reference[layer + 1], rtol=1e-4, atol=1e-4 * scale)
        # A layer or a token further would not pass.
        for other in range(LAYERS + 1):
            if other != layer + 1:
                assert np.abs(rows_btd - reference[other]).mean() > 0.02 * scale
        assert np.abs(rows_btd[:, 1:] - reference[layer + 1][:, :-1]).mean() > 0.02 * scale


def test_only_the_layers_that_are_read_are_loaded(model: Path) -> None:
    network = ResidualModel(str(model), [HookPoint(1)], "bfloat16")._network
    names = {name for name, _ in network.named_parameters()}
    assert any("layers.1." in name or "h.1." in name for name in names)
    assert not any("layers.2." in name or "h.2." in name or "lm_head" in name for name in names)
    assert {parameter.dtype for parameter in network.parameters()} == {torch.bfloat16}


def test_the_splice_reaches_the_layers_of_every_shape(model: Path) -> None:
    ids_n = TOKENS_BT[0].astype(np.int32)
    sequences = [TokenSequence(ids_n, np.full(len(ids_n), Reason.KEPT, np.uint8), True)]
    means = {HookPoint(1): np.zeros(32, np.float32)}
    loss = measure_splice(str(model), {"exact": exact_sae(32)}, means, sequences, 64)["exact"]
    assert loss.spliced.value == pytest.approx(loss.clean.value, abs=1e-4)
    assert loss.zeroed.value != pytest.approx(loss.clean.value, abs=1e-4)


def test_shape_is_read_without_weights(model: Path) -> None:
    config = ModelConfig.read(str(model))
    assert (config.layers, config.width, config.predicts_tokens) == (LAYERS, 32, True)


def test_a_model_without_layers_and_width_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "dac"}')
    with pytest.raises(FeaturewatchError, match="states no num_hidden_layers and hidden_size"):
        ModelConfig.read(str(tmp_path))


def test_a_model_without_a_head_for_tokens_is_known(tmp_path: Path) -> None:
    LlavaConfig().save_pretrained(tmp_path)
    assert not ModelConfig.read(str(tmp_path)).predicts_tokens


def test_missing_weights_are_not_made_up(tiny_model: Path, tmp_path: Path) -> None:
    for file in ("config.json", "model.safetensors"):
        (tmp_path / file).write_bytes((tiny_model / file).read_bytes())
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(FeaturewatchError, match=r"without layers.1.mlp.up_proj.weight .* must hold all weights"):
        ResidualModel(str(tmp_path), [HookPoint(1)], "float32")
