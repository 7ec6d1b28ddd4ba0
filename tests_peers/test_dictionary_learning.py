"""Dictionaries of dictionary_learning, trained for some steps by its own trainers and stored as its training does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from comparison import D, K, M, agree, randomise, rows
from dictionary_learning.dictionary import AutoEncoderNew, GatedAutoEncoder
from dictionary_learning.trainers.batch_top_k import BatchTopKTrainer
from dictionary_learning.trainers.gdm import GatedSAETrainer
from dictionary_learning.trainers.jumprelu import JumpReluTrainer
from dictionary_learning.trainers.matryoshka_batch_top_k import MatryoshkaBatchTopKTrainer
from dictionary_learning.trainers.standard import StandardTrainer, StandardTrainerAprilUpdate
from dictionary_learning.trainers.top_k import TopKTrainer

from monitor.sae import HookPoint, load_dictionary

STEPS = 6
COMMON: dict[str, Any] = {
    "steps": STEPS,
    "activation_dim": D,
    "dict_size": M,
    "layer": 3,
    "lm_name": "tiny",
    "submodule_name": "resid_post_layer_3",
    "device": "cpu",
    "warmup_steps": 1,
}
SPARSE: dict[str, Any] = {"sparsity_warmup_steps": 1}
TOP_K: dict[str, Any] = {"k": K, "threshold_start_step": 1, "decay_start": 3}
TRAINERS: dict[str, tuple[Any, dict[str, Any]]] = {
    "AutoEncoder": (StandardTrainer, SPARSE),
    "AutoEncoderNew": (StandardTrainerAprilUpdate, SPARSE | {"dict_class": AutoEncoderNew}),
    "GatedAutoEncoder": (GatedSAETrainer, SPARSE),
    "JumpReluAutoEncoder": (JumpReluTrainer, SPARSE),
    "AutoEncoderTopK": (TopKTrainer, TOP_K),
    "BatchTopKSAE": (BatchTopKTrainer, TOP_K),
    "MatryoshkaBatchTopKSAE": (MatryoshkaBatchTopKTrainer, TOP_K | {"group_fractions": [0.25, 0.25, 0.5]}),
}


@pytest.mark.parametrize("kind", TRAINERS)
def test_dictionaries(tmp_path: Path, kind: str) -> None:
    trainer_class, settings = TRAINERS[kind]
    trainer = trainer_class(**COMMON, **settings)
    randomise(trainer.ae)
    for step in range(STEPS):
        trainer.update(step, rows(seed=step))
    config = dict(trainer.config)
    if kind == "GatedAutoEncoder":
        assert isinstance(trainer.ae, GatedAutoEncoder)
    torch.save({name: tensor.cpu() for name, tensor in trainer.ae.state_dict().items()}, tmp_path / "ae.pt")
    (tmp_path / "config.json").write_text(json.dumps({"trainer": config, "buffer": {"ctx_len": 128}}, default=str))
    codes = trainer.ae.encode(rows())
    ours = load_dictionary(tmp_path)
    agree(ours, rows(), codes, trainer.ae.decode(codes))
    assert ours.metadata["dict_class"] == kind
    assert (ours.hook_point, ours.model) == (HookPoint(3), "tiny")
