"""512 -> 4,096 on a one-layer transformer: the setting of Towards Monosemanticity (Anthropic, 2023).

Trains the transformer on a corpus, takes the activations of its 512 neurons, trains SAEs of 4,096 latents on them by
the recipe of the paper and by our default, and prints L0, explained variance, dead and resampled latents and how often
latents fire. Nothing is kept but the printed table.

    python benchmarks/towards_monosemanticity.py corpus.jsonl.gz

The corpus is JSON lines with a field "text", gzipped. The paper's run saw thousands of times as many rows.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from one_layer.language_model import BATCH_WINDOWS, CONTEXT, mlp_activations, token_windows, train_language_model
from rich.console import Console
from rich.table import Table

from monitor.sae import Dictionary, HookPoint
from training.trainer.config import TrainConfig
from training.trainer.export import at_inference, to_dictionary
from training.trainer.rows import ArrayRows
from training.trainer.sae_config import SaeConfig, SaeOptions
from training.trainer.train import train_saes_on

LATENTS = 4096
POINT = HookPoint(layer=0, site="mlp_out")  # the neurons themselves, for which there is no name
HELD_OUT_ROWS = 40_000
ULTRALOW = 1e-5
_CHUNK_ROWS = 4096
_FLOOR = -6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--model-steps", type=int, default=2000, help="steps of 4,096 tokens")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--epochs", type=float, default=2.0)
    parser.add_argument("--batch-rows", type=int, default=4096)
    parser.add_argument("--l1", type=float, default=5.0, help="of the paper's recipe")
    parser.add_argument("--k", type=int, default=16, help="of the default recipe")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    console = Console(width=200)

    rows = given.rows + HELD_OUT_ROWS
    windows_wt = token_windows(given.corpus, max(rows // (CONTEXT - 1) + 1, BATCH_WINDOWS * given.model_steps))
    model, loss = train_language_model(windows_wt, given.model_steps, given.seed)
    rows_nd = mlp_activations(model, windows_wt, rows, given.seed)
    held_out_nd, rows_nd = rows_nd[:HELD_OUT_ROWS].astype(np.float32), rows_nd[HELD_OUT_ROWS:]
    console.print(
        f"one-layer transformer: {loss:.3f} nats/token on {windows_wt.size:,} tokens, "
        f"{float((held_out_nd > 0).mean()):.1%} of its neurons active; {len(rows_nd):,} rows"
    )
    saes = {
        "relu-resample": SaeConfig.of(
            POINT, SaeOptions(architecture="relu-resample", latents=LATENTS, seed=given.seed), l1=given.l1
        ),
        "batchtopk": SaeConfig.of(
            POINT, SaeOptions(architecture="batchtopk", latents=LATENTS, seed=given.seed), k=given.k
        ),
    }
    source = ArrayRows({POINT: rows_nd}, given.batch_rows, given.seed)
    trained = train_saes_on(source, saes, TrainConfig(epochs=given.epochs, batch_rows=given.batch_rows))
    half = HELD_OUT_ROWS // 2
    table = Table("recipe", "L0", "FVU", "EV", "dead", "resampled", f"density < {ULTRALOW:g}", "densities, by decade")
    for name, result in trained.items():
        dictionary = at_inference(to_dictionary(result, "one-layer"), saes[name], held_out_nd[:half])
        figures = measured(dictionary, held_out_nd[half:])
        density_m = result.density_m.numpy()
        table.add_row(
            name,
            f"{figures['l0']:.1f}",
            f"{figures['fvu']:.3f}",
            f"{1 - figures['fvu']:.3f}",
            f"{float((density_m == 0).mean()):.1%}",
            f"{result.figures.resampled:,}",
            f"{float(((density_m > 0) & (density_m < ULTRALOW)).mean()):.1%}",
            decades(density_m),
        )
    console.print(table)


def measured(dictionary: Dictionary, rows_nd: npt.NDArray[np.float32]) -> dict[str, float]:
    """L0 and fraction of variance unexplained of the exported SAE on rows that no training saw."""
    active, squares = 0, 0.0
    for start in range(0, len(rows_nd), _CHUNK_ROWS):
        chunk_nd = rows_nd[start : start + _CHUNK_ROWS]
        f_nm = dictionary.encode(chunk_nd)
        active += int((f_nm > 0).sum())
        squares += float(np.square(dictionary.decode(f_nm) - chunk_nd).sum(dtype=np.float64))
    variance = float(np.square(rows_nd - rows_nd.mean(axis=0)).sum(dtype=np.float64))
    return {"l0": active / len(rows_nd), "fvu": squares / variance}


def decades(density_m: npt.NDArray[Any]) -> str:
    """Share of the living latents in each decade of density, rarest first."""
    living = density_m[density_m > 0]
    found = np.floor(np.log10(living)).clip(_FLOOR, -1).astype(int)
    return "  ".join(f"1e{decade}: {float((found == decade).mean()):.0%}" for decade in range(_FLOOR, 0))


if __name__ == "__main__":
    main()
