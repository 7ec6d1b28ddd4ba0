"""Objects of sae-lens, stored by its own functions and read here; and ours, stored here and read by sae-lens."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from comparison import D, K, M, agree, randomise, rows
from sae_lens import (
    SAE,
    BatchTopKTrainingSAE,
    BatchTopKTrainingSAEConfig,
    GatedSAE,
    GatedSAEConfig,
    JumpReLUSAE,
    JumpReLUSAEConfig,
    JumpReLUTrainingSAE,
    JumpReLUTrainingSAEConfig,
    MatryoshkaBatchTopKTrainingSAE,
    MatryoshkaBatchTopKTrainingSAEConfig,
    StandardSAE,
    StandardSAEConfig,
    TopKSAE,
    TopKSAEConfig,
)

from monitor.sae import Dictionary, HookPoint, InputNorm, JumpRelu, Relu, TopK, load_dictionary, save_saelens

KINDS: dict[str, tuple[Any, Any]] = {
    "standard": (StandardSAE, StandardSAEConfig),
    "jumprelu": (JumpReLUSAE, JumpReLUSAEConfig),
    "gated": (GatedSAE, GatedSAEConfig),
    "topk": (TopKSAE, TopKSAEConfig),
}


def configured(config_class: Any, **settings: Any) -> Any:
    config = config_class(d_in=D, d_sae=M, **settings)
    config.metadata.hook_name = "blocks.3.hook_resid_post"
    config.metadata.model_name = "tiny"
    return config


@pytest.mark.parametrize("subtracts", [True, False])
@pytest.mark.parametrize("rule", ["none", "layer_norm", "constant_norm_rescale"])
@pytest.mark.parametrize("kind", KINDS)
def test_inference_saes(tmp_path: Path, kind: str, rule: str, subtracts: bool) -> None:
    sae_class, config_class = KINDS[kind]
    more = {"k": K} if kind == "topk" else {}
    sae = sae_class(configured(config_class, normalize_activations=rule, apply_b_dec_to_input=subtracts, **more))
    randomise(sae)
    sae.save_model(tmp_path)
    codes = sae.encode(rows())
    agree(load_dictionary(tmp_path), rows(), codes, sae.decode(codes))


def test_topk_that_ranks_by_decoder_norms(tmp_path: Path) -> None:
    sae = TopKSAE(configured(TopKSAEConfig, k=K, rescale_acts_by_decoder_norm=True))
    randomise(sae)
    sae.save_model(tmp_path)
    codes = sae.encode(rows())
    agree(load_dictionary(tmp_path), rows(), codes, sae.decode(codes))


@pytest.mark.parametrize("rescaled", [True, False])
@pytest.mark.parametrize("matryoshka", [True, False])
def test_checkpoints_and_exports_of_batchtopk(tmp_path: Path, matryoshka: bool, rescaled: bool) -> None:
    if matryoshka:
        widths = {"matryoshka_widths": [M // 4, M // 2, M]}
        sae: Any = MatryoshkaBatchTopKTrainingSAE(
            configured(MatryoshkaBatchTopKTrainingSAEConfig, k=K, rescale_acts_by_decoder_norm=rescaled, **widths)
        )
    else:
        sae = BatchTopKTrainingSAE(configured(BatchTopKTrainingSAEConfig, k=K, rescale_acts_by_decoder_norm=rescaled))
    randomise(sae)
    sae.topk_threshold.fill_(4.0)
    sae.save_model(tmp_path / "checkpoint")
    sae.save_inference_model(tmp_path / "export")
    theirs = SAE.load_from_disk(tmp_path / "export")
    codes = theirs.encode(rows())
    for folder in ("export", "checkpoint"):
        agree(load_dictionary(tmp_path / folder), rows(), codes, theirs.decode(codes))


@pytest.mark.parametrize("rescaled", [True, False])
def test_a_checkpoint_whose_normalisation_their_export_would_fold(tmp_path: Path, rescaled: bool) -> None:
    config = configured(
        BatchTopKTrainingSAEConfig,
        k=K,
        rescale_acts_by_decoder_norm=rescaled,
        normalize_activations="expected_average_only_in",
    )
    sae = BatchTopKTrainingSAE(config)
    randomise(sae)
    sae.topk_threshold.fill_(4.0)
    sae.save_model(tmp_path / "checkpoint")
    (tmp_path / "checkpoint" / "activation_scaler.json").write_text(json.dumps({"scaling_factor": 0.7}))
    sae.fold_activation_norm_scaling_factor(0.7)
    sae.save_inference_model(tmp_path / "export")
    theirs = SAE.load_from_disk(tmp_path / "export")
    codes = theirs.encode(rows())
    agree(load_dictionary(tmp_path / "checkpoint"), rows(), codes, theirs.decode(codes))


def test_jumprelu_trained_by_them(tmp_path: Path) -> None:
    sae = JumpReLUTrainingSAE(configured(JumpReLUTrainingSAEConfig, jumprelu_init_threshold=0.5))
    randomise(sae)
    sae.save_model(tmp_path / "checkpoint")
    sae.save_inference_model(tmp_path / "export")
    theirs = SAE.load_from_disk(tmp_path / "export")
    codes = theirs.encode(rows())
    for folder in ("export", "checkpoint"):
        agree(load_dictionary(tmp_path / folder), rows(), codes, theirs.decode(codes))


@pytest.mark.parametrize("rule", ["none", "layer_norm", "unit_norm"])
@pytest.mark.parametrize("activation", [Relu(), TopK(K), JumpRelu(np.full(M, 1.5, np.float32))])
def test_ours_is_read_by_sae_lens(tmp_path: Path, activation: Relu | TopK | JumpRelu, rule: InputNorm) -> None:
    rng = np.random.default_rng(1)
    ours = Dictionary(
        w_enc_md=rng.standard_normal((M, D), np.float32),
        b_enc_m=rng.standard_normal(M, np.float32),
        w_dec_md=rng.standard_normal((M, D), np.float32),
        b_dec_d=rng.standard_normal(D, np.float32),
        activation=activation,
        hook_point=HookPoint(3),
        model="tiny",
        metadata={"l0": 4.5, "source": "a/b"},
        input_norm=rule,
    )
    theirs = SAE.load_from_disk(save_saelens(ours, tmp_path))
    codes = theirs.encode(rows())
    agree(ours, rows(), codes, theirs.decode(codes))
    assert theirs.cfg.metadata.hook_name == "blocks.3.hook_resid_post"
    # And once around: their own file of it is still the same.
    theirs.save_model(tmp_path / "again")
    codes = theirs.encode(rows())
    agree(load_dictionary(tmp_path / "again"), rows(), codes, theirs.decode(codes))


def test_heads_are_split_for_sae_lens_and_joined_for_us(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    ours = Dictionary(
        w_enc_md=rng.standard_normal((M, D), np.float32),
        b_enc_m=rng.standard_normal(M, np.float32),
        w_dec_md=rng.standard_normal((M, D), np.float32),
        b_dec_d=rng.standard_normal(D, np.float32),
        activation=TopK(K),
        hook_point=HookPoint(3, "attn_z"),
        model="tiny",
    )
    theirs = SAE.load_from_disk(save_saelens(ours, tmp_path))
    codes = theirs.encode(rows().reshape(len(rows()), 4, D // 4))
    agree(ours, rows(), codes, theirs.decode(codes).reshape(len(rows()), D))
