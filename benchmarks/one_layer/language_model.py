"""A transformer of one layer (d_model 128, 512 ReLU neurons), trained from nothing on a corpus, and its activations."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel

from training.progress import ProgressLine

VOCABULARY, CONTEXT, WIDTH, NEURONS = 4096, 128, 128, 512
BATCH_WINDOWS = 32
_TOKENIZER_DOCUMENTS = 2000
_PEAK_RATE, _WARM_UP = 2e-3, 0.02


def token_windows(corpus: Path, windows: int) -> npt.NDArray[np.int64]:
    """[windows, CONTEXT] token ids of a byte-level BPE that was trained on the corpus's first documents."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    first = [text for text, _ in zip(_texts(corpus), range(_TOKENIZER_DOCUMENTS), strict=False)]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        first, trainers.BpeTrainer(vocab_size=VOCABULARY, initial_alphabet=alphabet, show_progress=False)
    )
    documents, wanted = [], windows * CONTEXT
    for text in _texts(corpus):
        documents.append(np.array(tokenizer.encode(text).ids, np.int64))
        wanted -= len(documents[-1])
        if wanted <= 0:
            break
    ids = np.concatenate(documents)
    kept = min(windows, len(ids) // CONTEXT)
    return ids[: kept * CONTEXT].reshape(kept, CONTEXT)


def _texts(corpus: Path) -> Iterator[str]:
    with gzip.open(corpus, "rt", encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)["text"]


def train_language_model(windows_wt: npt.NDArray[np.int64], steps: int, seed: int) -> tuple[GPT2LMHeadModel, float]:
    """The model, and its mean loss over the last tenth of the steps, nats per token."""
    torch.manual_seed(seed)
    model = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=VOCABULARY,
            n_positions=CONTEXT,
            n_embd=WIDTH,
            n_layer=1,
            n_head=4,
            n_inner=NEURONS,
            activation_function="relu",
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
            bos_token_id=0,
            eos_token_id=0,
        )
    )
    adam = torch.optim.AdamW(model.parameters(), lr=_PEAK_RATE, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(adam, _PEAK_RATE, total_steps=steps, pct_start=_WARM_UP)
    order = np.random.default_rng(seed)
    losses = []
    with ProgressLine("one-layer transformer", steps * BATCH_WINDOWS * CONTEXT) as progress:
        for step in range(steps):
            chosen = order.integers(0, len(windows_wt), BATCH_WINDOWS)
            tokens_bt = torch.from_numpy(windows_wt[chosen])
            loss = model(input_ids=tokens_bt, labels=tokens_bt).loss
            adam.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            adam.step()
            schedule.step()
            losses.append(loss.item())
            progress.update((step + 1) * BATCH_WINDOWS * CONTEXT, loss=losses[-1])
    return model.eval(), float(np.mean(losses[-max(1, steps // 10) :]))


@torch.no_grad()
def mlp_activations(
    model: GPT2LMHeadModel, windows_wt: npt.NDArray[np.int64], rows: int, seed: int
) -> npt.NDArray[np.float16]:
    """float16 [rows, NEURONS]: the neurons behind their ReLU, at all positions but the first of each window."""
    caught: list[Tensor] = []
    handle = model.transformer.h[0].mlp.act.register_forward_hook(lambda _module, _inputs, out: caught.append(out))
    order_w = np.random.default_rng(seed).permutation(len(windows_wt))
    found = np.empty((rows, NEURONS), np.float16)
    at = 0
    try:
        for start in range(0, len(order_w), BATCH_WINDOWS):
            model.transformer(torch.from_numpy(windows_wt[order_w[start : start + BATCH_WINDOWS]]))
            part = caught.pop()[:, 1:].reshape(-1, NEURONS)[: rows - at]
            found[at : at + len(part)] = part.numpy()
            at += len(part)
            if at == rows:
                break
    finally:
        handle.remove()
    return found[:at]
