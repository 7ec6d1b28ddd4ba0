"""Discovery on made-up activations: prompts whose rows are known, and an SAE whose latents are the coordinates."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from monitor.sae import Dictionary, HookPoint, JumpRelu, save_saelens
from training.discovery.capture import PromptRows
from training.discovery.config import DiscoverConfig
from training.discovery.prompt import Prompt

POINT = HookPoint(2)
WIDTH, LATENTS, GUILTY = 24, 24, 5
SAE = "toy/resid_post.2"


def save_toy_sae(folder: Path) -> Path:
    """An SAE whose latents are the coordinates, below the zoo `folder`."""
    eye = np.eye(LATENTS, WIDTH, dtype=np.float32)
    dictionary = Dictionary(
        w_enc_md=eye,
        b_enc_m=np.zeros(LATENTS, np.float32),
        w_dec_md=eye,
        b_dec_d=np.zeros(WIDTH, np.float32),
        activation=JumpRelu(np.full(LATENTS, 0.1, np.float32)),
        hook_point=POINT,
        model="toy",
    )
    save_saelens(dictionary, folder / SAE)
    return folder


def prompts_and_rows(seed: int = 0) -> tuple[list[Prompt], PromptRows]:
    """Positives carry coordinate GUILTY on their later tokens; sources differ in another coordinate."""
    rng = np.random.default_rng(seed)
    prompts, rows, lengths = [], [], []
    for number in range(900):
        is_positive, source = number % 2 == 0, number % 3
        length = int(rng.integers(2, 40))
        x = np.abs(rng.normal(0, 1, (length, WIDTH)))
        x[:, source] += 1.0
        if is_positive:
            x[length // 2 :, GUILTY] += rng.uniform(1.5, 4)
        prompts.append(Prompt(f"prompt {number}", is_positive, number % 5 == 0, f"{'ab'[is_positive]}{source}"))
        rows.append(x.astype(np.float32))
        lengths.append(length)
    return prompts, PromptRows(
        {POINT: np.concatenate(rows)}, np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    )


def toy_config(folder: Path, **changes: object) -> DiscoverConfig:
    data = folder / "prompts.jsonl"
    data.write_text("{}\n")
    config = DiscoverConfig(
        model="toy", saes=(SAE,), data=(data,), policy_out=folder / "toy-harm.yaml", probe_latents=6, single_latents=3
    )
    return dataclasses.replace(config, **changes)  # type: ignore[arg-type]
