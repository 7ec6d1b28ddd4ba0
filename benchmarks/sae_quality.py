"""Quality at equal tokens, width and L0: our BatchTopK, SAELens' BatchTopK and sparsify's TopK on the same activations.

    pip install -r benchmarks/requirements-peers.txt
    python benchmarks/sae_quality.py CACHE --hook-point resid_post.14 --work FOLDER

CACHE is an activation cache of `featurewatch train` (2.1 million rows are enough). The last rows are kept back: one
half of them sets the threshold, the other is measured. Each system trains with its own trainer on one pass over the
others, peers in batches of 4,096 and with several learning rates, of which the best counts. SAEs that are in FOLDER
from an earlier call are not trained again. Two figures per SAE: as its own export encodes, and with a threshold that
was set in the same way for all (sparsify's TopK needs none).
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.table import Table

from benchmarks.peers import ours_rows, saelens_rows, sparsify_rows
from monitor.errors import FeaturewatchError
from monitor.sae import Dictionary, Hints, HookPoint, JumpRelu, load_dictionary
from training.harvest.cache import ActivationCache
from training.trainer.export import with_threshold

Rows = npt.NDArray[Any]
CHUNK = 4096


@dataclasses.dataclass(frozen=True)
class System:
    """A trainer with one setting.

    Attributes:
        train: rows and folder to the folder with the SAE.
        scale: factor by which it multiplies rows before it trains and that its file does not hold.
        names_layer: its file names the layer it was hooked to, here the one of a stand-in model.
    """

    name: str
    train: Callable[[Rows, Path], Path]
    scale: Callable[[Rows], float] = lambda _rows: 1.0
    names_layer: bool = False


def systems(options: argparse.Namespace) -> list[System]:
    latents, k = options.latents, options.k
    hook_point = HookPoint.parse(options.hook_point)
    found = [System("featurewatch BatchTopK", lambda rows, out: ours_rows.train(rows, latents, k, hook_point, out))]
    for rate in options.peer_rates:
        found.append(
            System(
                f"SAELens BatchTopK, lr {rate:g}",
                lambda rows, out, rate=rate: saelens_rows.train(rows, latents, k, rate, out),  # type: ignore[misc]
            )
        )
    found.append(
        System(
            "sparsify TopK, its own lr",
            lambda rows, out: sparsify_rows.train(rows, latents, k, None, out),
            scale=sparsify_rows.input_scale,
            names_layer=True,
        )
    )
    for rate in options.sparsify_rates:
        found.append(
            System(
                f"sparsify TopK, lr {rate:g}",
                lambda rows, out, rate=rate: sparsify_rows.train(rows, latents, k, rate, out),  # type: ignore[misc]
                scale=sparsify_rows.input_scale,
                names_layer=True,
            )
        )
    return found


def rows_of(cache: ActivationCache, hook_point: HookPoint, count: int, path: Path) -> Rows:
    """The first `count` rows of the cache's shuffled order, as a memory-mapped float16 array."""
    if path.is_file():
        return np.load(path, mmap_mode="r", allow_pickle=False)
    held = np.lib.format.open_memmap(path, "w+", np.float16, (count, cache.manifest.width))
    at = 0
    for batch_nd in cache.batches(hook_point, CHUNK, seed=0):
        part_nd = batch_nd[: count - at]
        held[at : at + len(part_nd)] = part_nd
        at += len(part_nd)
        if at == count:
            return held
    path.unlink()
    raise FeaturewatchError(
        f"cache {cache.folder} with {at:,} rows", f"{count:,} are needed", "harvest more or give fewer --tokens"
    )


def measure(dictionary: Dictionary, rows_nd: Rows, scale: float) -> dict[str, float]:
    """L0 and the fraction of variance unexplained on `rows_nd`."""
    error, active = 0.0, 0
    mean_d = np.mean(rows_nd, axis=0, dtype=np.float64)
    variance = sum(float(((rows_nd[at : at + CHUNK] - mean_d) ** 2).sum()) for at in range(0, len(rows_nd), CHUNK))
    for at in range(0, len(rows_nd), CHUNK):
        x_nd = rows_nd[at : at + CHUNK].astype(np.float32)
        f_nm = dictionary.encode(x_nd * np.float32(scale))
        active += int(np.count_nonzero(f_nm))
        left_nd = dictionary.decode(f_nm) / np.float32(scale) - x_nd
        error += float(np.einsum("nd,nd->", left_nd, left_nd, dtype=np.float64))
    return {"l0": active / len(rows_nd), "fvu": error / variance}


def equal_l0(dictionary: Dictionary, rows_nd: Rows, k: int) -> Dictionary | None:
    """With the one threshold at which k latents per row fire on `rows_nd`; None where the SAE has no threshold."""
    if not isinstance(dictionary.activation, JumpRelu):
        return None
    return with_threshold(dictionary, rows_nd.astype(np.float32), k)


def main() -> None:
    options = parse()
    options.work.mkdir(parents=True, exist_ok=True)
    hook_point = HookPoint.parse(options.hook_point)
    rows_nd = rows_of(
        ActivationCache(options.cache), hook_point, options.tokens + 2 * options.heldout, options.work / "rows.npy"
    )
    train_nd = rows_nd[: options.tokens // CHUNK * CHUNK]
    set_nd, report_nd = rows_nd[options.tokens :][: options.heldout], rows_nd[options.tokens + options.heldout :]
    result = []
    for system in systems(options):
        folder = options.work / system.name.replace(" ", "-").replace(",", "")
        note = folder.with_name(folder.name + ".json")
        if not note.is_file():
            note.write_text(json.dumps({"sae": str(system.train(train_nd, folder))}))
        hints = Hints(hook_point=None if system.names_layer else hook_point, model="as harvested")
        dictionary = load_dictionary(json.loads(note.read_text())["sae"], hints)
        scale = system.scale(train_nd)
        row: dict[str, Any] = {"system": system.name, "own": measure(dictionary, report_nd, scale)}
        same = equal_l0(dictionary, set_nd * np.float32(scale), options.k)
        row["equal"] = measure(same, report_nd, scale) if same else row["own"]
        result.append(row)
    show(result, options)
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n")


def show(result: list[dict[str, Any]], options: argparse.Namespace) -> None:
    table = Table(
        title=f"{options.tokens:,} rows at {options.hook_point}, {options.latents:,} latents, k = {options.k}",
        title_justify="left",
    )
    for column in ("system", "L0 as exported", "FVU as exported", "L0, threshold set alike", "FVU", "FVU / ours"):
        table.add_column(column, justify="left" if column == "system" else "right")
    ours = result[0]["equal"]["fvu"]
    for row in result:
        own, equal = row["own"], row["equal"]
        table.add_row(
            row["system"],
            f"{own['l0']:.1f}",
            f"{own['fvu']:.4f}",
            f"{equal['l0']:.1f}",
            f"{equal['fvu']:.4f}",
            f"{equal['fvu'] / ours:.3f}",
        )
    Console().print(table)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("cache", type=Path, help="folder of the activation cache")
    parser.add_argument("--hook-point", default="resid_post.14")
    parser.add_argument("--tokens", type=int, default=2_000_000)
    parser.add_argument("--heldout", type=int, default=40_960, help="rows for the threshold, and as many to measure")
    parser.add_argument("--latents", type=int, default=4608)
    parser.add_argument("--k", type=int, default=32)
    parser.add_argument("--peer-rates", type=float, nargs="*", default=[3e-4, 2e-3], help="learning rates for SAELens")
    parser.add_argument("--sparsify-rates", type=float, nargs="*", default=[2e-3], help="beside its own choice")
    parser.add_argument("--work", type=Path, required=True, help="folder for rows and SAEs; kept")
    parser.add_argument("--json", type=Path, help="write the figures there")
    return parser.parse_args()


if __name__ == "__main__":
    main()
