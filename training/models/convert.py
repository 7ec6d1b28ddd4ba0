"""GGUF to an ordinary Hugging Face folder."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
from transformers.utils import logging as transformers_logging


def gguf_to_hugging_face(gguf: Path, folder: Path) -> None:
    """Dequantises `gguf` to float32 and writes config, weights, tokenizer and chat template into `folder`.

    float32 holds the dequantised values exactly, so every reader of the folder computes with the same weights.
    """
    transformers_logging.disable_progress_bar()
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent, gguf_file=gguf.name, dtype=torch.float32, quantization_config=GgufConfig(dequantize=True)
    )
    # Left in, it would make every later reader look for quantised weights.
    model.config.__dict__.pop("quantization_config", None)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
