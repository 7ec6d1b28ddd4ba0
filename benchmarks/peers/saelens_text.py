"""SAELens from text to SAEs, one layer after the other: its own runner, in a process of its own.

    python -m benchmarks.peers.saelens_text SETTINGS.json

Settings: model folder, texts file (JSON list), layers, tokens, batch rows, context, k, latents, folder. Prints one JSON
line with seconds per layer.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch


def main(settings: dict[str, Any]) -> None:
    from datasets import Dataset
    from sae_lens import (
        BatchTopKTrainingSAEConfig,
        LanguageModelSAERunnerConfig,
        LanguageModelSAETrainingRunner,
        LoggingConfig,
    )
    from transformers import AutoConfig

    torch.manual_seed(0)
    texts = json.loads(Path(settings["texts"]).read_text())
    dataset = Dataset.from_dict({"text": texts})
    width = AutoConfig.from_pretrained(settings["model"]).hidden_size
    seconds = []
    for layer in settings["layers"]:
        started = time.monotonic()
        steps = settings["tokens"] // settings["batch_rows"]
        config = LanguageModelSAERunnerConfig(
            sae=BatchTopKTrainingSAEConfig(d_in=width, d_sae=settings["latents"], k=settings["k"]),
            model_name=settings["model"],
            model_class_name="AutoModelForCausalLM",
            hook_name=f"model.layers.{layer}",
            dataset_path="local",
            is_dataset_tokenized=False,
            streaming=False,
            context_size=settings["context"],
            training_tokens=settings["tokens"],
            train_batch_size_tokens=settings["batch_rows"],
            store_batch_size_prompts=16,
            n_batches_in_buffer=max(2 * settings["batch_rows"] // settings["context"], 64),
            lr=3e-4,
            lr_warm_up_steps=steps // 20,
            lr_decay_steps=steps // 5,
            dead_feature_window=max(steps // 10, 1),
            n_batches_for_norm_estimate=1,
            device="cpu",
            dtype="float32",
            checkpoint_path=None,
            output_path=str(Path(settings["folder"]) / f"layer-{layer}"),
            logger=LoggingConfig(log_to_wandb=False),
            verbose=False,
        )
        LanguageModelSAETrainingRunner(config, override_dataset=dataset).run()
        seconds.append(time.monotonic() - started)
    print(json.dumps({"seconds": seconds}))


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()))
