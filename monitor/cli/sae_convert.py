"""`featurewatch sae convert`: an SAE of any family in the layout that policies and SAELens read."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from monitor.cli.common import console
from monitor.cli.sae_source import (
    SOURCE_HELP,
    HookPointOption,
    KOption,
    ModelOption,
    NormOption,
    hints_from,
    read_source,
)
from monitor.errors import FeaturewatchError
from monitor.sae import save_saelens
from monitor.sae.checksum import encode_checksum
from monitor.sae.formats.saelens import load_saelens
from monitor.sae.formats.saelens_save import DTYPES


def convert(  # noqa: PLR0917
    source: Annotated[str, typer.Argument(help=SOURCE_HELP)],
    out: Annotated[Path, typer.Option(help="New folder for cfg.json and sae_weights.safetensors.")],
    threshold_from: Annotated[
        Path | None,
        typer.Option(
            metavar="ROWS",
            help="Give it one threshold (jumprelu), fitted on rows: a folder of an activation cache, or a .npy file.",
        ),
    ] = None,
    l0: Annotated[
        float | None, typer.Option(help="Latents per row that the threshold lets through on average.")
    ] = None,
    rows: Annotated[int, typer.Option(min=1, help="At most so many rows are used for the threshold.")] = 100_000,
    dtype: Annotated[str, typer.Option(help=f"Of the stored matrices: {' or '.join(DTYPES)}.")] = "float32",
    hook_point: HookPointOption = None,
    model_name: ModelOption = None,
    k: KOption = None,
    norm_factor: NormOption = None,
    zoo: Annotated[list[Path] | None, typer.Option(help="Folder to search for SAE ids.")] = None,
) -> None:
    """Store an SAE of any family in SAELens layout; with a threshold, policies can watch a topk SAE too."""
    if (threshold_from is None) != (l0 is None):
        raise FeaturewatchError(
            "--threshold-from without --l0" if l0 is None else "--l0 without --threshold-from",
            "the threshold is that at which l0 latents per row fire on these rows",
            "give both",
        )
    if out.exists():
        raise FeaturewatchError(f"--out {out}", "the folder exists already", "choose a new one")
    dictionary, _ = read_source(source, hints_from(hook_point, model_name, k, norm_factor), zoo)
    if threshold_from is not None and l0 is not None:
        # The training's imports take seconds.
        from training.trainer.fit_threshold import fitted_on_rows, read_rows

        dictionary = fitted_on_rows(dictionary, read_rows(threshold_from, dictionary, rows), l0)
    save_saelens(dictionary, out, dtype=dtype)
    stored = load_saelens(out)
    console.print(f"{out}: {stored.num_latents:,} latents at {stored.hook_point}", highlight=False, markup=False)
    console.print(f"sha256 {stored.sha256}\nchecksum {encode_checksum(stored)}", highlight=False, markup=False)
