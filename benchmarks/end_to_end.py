"""From text to SAEs at four layers: Featurewatch in one pass, SAELens one layer after the other.

    pip install -r benchmarks/requirements-peers.txt
    python benchmarks/end_to_end.py "$(featurewatch model path smollm2)" --data corpus.jsonl.gz

Both train BatchTopK SAEs (k = 32, 8 times the width, batches of 4,096) on the same number of tokens of the same texts
in float32, each in a process of its own as its users start it, in turn for `--rounds` rounds. Wall time is that of the
whole process, imports and loading of the model included. Featurewatch's includes what SAELens' does not do: held-out
threshold, explained variance and the card, but for the cross-entropy, which is cut to 256 tokens. A second run of ours
takes the forward dtype that it takes by default on this machine.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

OURS, OURS_AUTO, SAELENS = "featurewatch, float32", "featurewatch, default dtype", "SAELens, float32"
PROJECT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Figures:
    """Of one run: wall seconds and the largest resident memory of its process in MiB."""

    seconds: float
    peak_mib: float


def read_texts(path: Path) -> list[str]:
    data = path.read_bytes()
    # Not splitlines: JSON strings may hold other line separators.
    lines = (gzip.decompress(data) if path.suffix == ".gz" else data).decode().strip("\n").split("\n")
    return [json.loads(line)["text"] for line in lines]


def run(words: list[str], log: Path) -> Figures:
    """Runs a command in a process of its own; its output goes to `log`."""
    started = time.monotonic()
    with log.open("w") as file:
        # Not subprocess.run: only wait4 tells the peak memory of this one child.
        process = subprocess.Popen(words, cwd=PROJECT, stdout=file, stderr=subprocess.STDOUT, env=offline())
        _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{' '.join(words[:4])} … ended with {process.returncode}:\n{log.read_text()[-2000:]}")
    return Figures(time.monotonic() - started, usage.ru_maxrss / 1024)


def offline() -> dict[str, str]:
    return {**os.environ, "HF_HUB_OFFLINE": "1", "WANDB_MODE": "disabled", "TOKENIZERS_PARALLELISM": "false"}


def featurewatch(options: argparse.Namespace, folder: Path, dtype: str) -> Figures:
    words = [sys.executable, "-m", "monitor.cli.main", "train", options.model]
    for path in options.data:
        words += ["--data", str(path)]
    for layer in options.layers:
        words += ["--hook-point", f"resid_post.{layer}"]
    words += ["--tokens", str(options.tokens), "--batch-rows", str(options.batch_rows), "--dtype", dtype, "-k", "32"]
    words += ["--cache", str(folder / "cache"), "--out", str(folder / "out"), "--threshold-tolerance", "0.2"]
    words += ["--card-tokens", "8192", "--loss-tokens", "256", "--heldout-tokens", "16384"]
    try:
        return run(words, folder / "featurewatch.log")
    finally:
        for name in ("cache", "out"):
            shutil.rmtree(folder / name, ignore_errors=True)


def saelens(options: argparse.Namespace, folder: Path) -> Figures:
    texts = [text for path in options.data for text in read_texts(path)]
    (folder / "texts.json").write_text(json.dumps(texts))
    settings = {
        "model": options.model,
        "texts": str(folder / "texts.json"),
        "layers": options.layers,
        "tokens": options.tokens,
        "batch_rows": options.batch_rows,
        "context": 256,
        "k": 32,
        "latents": 8 * json.loads((Path(options.model) / "config.json").read_text())["hidden_size"],
        "folder": str(folder / "saelens"),
    }
    (folder / "settings.json").write_text(json.dumps(settings))
    words = [sys.executable, "-m", "benchmarks.peers.saelens_text", str(folder / "settings.json")]
    return run(words, folder / "saelens.log")


def main() -> None:
    options = parse()
    trained = options.tokens // options.batch_rows * options.batch_rows * len(options.layers)
    figures: dict[str, list[Figures]] = {OURS: [], OURS_AUTO: [], SAELENS: []}
    with tempfile.TemporaryDirectory(dir=options.work) as name:
        folder = Path(name)
        for _ in range(options.rounds):
            figures[OURS].append(featurewatch(options, folder, "float32"))
            figures[SAELENS].append(saelens(options, folder))
            figures[OURS_AUTO].append(featurewatch(options, folder, "auto"))
    result = summary(figures, trained)
    show(result, options)
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n")


def summary(figures: dict[str, list[Figures]], trained: int) -> dict[str, Any]:
    """Per system: median tokens/s (layers times tokens), its range, peak memory, ratio to SAELens round by round."""
    peer = [run.seconds for run in figures[SAELENS]]
    return {
        system: {
            "seconds": [round(run.seconds, 1) for run in runs],
            "tokens_per_second": trained / statistics.median(run.seconds for run in runs),
            "peak_mib": max(run.peak_mib for run in runs),
            "ratio": statistics.median(theirs / run.seconds for run, theirs in zip(runs, peer, strict=True)),
        }
        for system, runs in figures.items()
    }


def show(result: dict[str, Any], options: argparse.Namespace) -> None:
    table = Table(title=f"{len(options.layers)} layers × {options.tokens:,} tokens, text to SAEs", title_justify="left")
    for column in ("system", "seconds", "layer-tokens/s", "× SAELens", "peak memory"):
        table.add_column(column, justify="left" if column == "system" else "right")
    for system, row in result.items():
        table.add_row(
            system,
            ", ".join(f"{seconds:,.0f}" for seconds in row["seconds"]),
            f"{row['tokens_per_second']:,.0f}",
            f"{row['ratio']:.2f}",
            f"{row['peak_mib']:,.0f} MiB",
        )
    Console().print(table)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("model", help="Hugging Face folder of the model")
    parser.add_argument(
        "--data", type=Path, action="append", required=True, help=".jsonl or .jsonl.gz with a field text"
    )
    parser.add_argument("--layers", type=int, nargs="+", default=[5, 10, 14, 20])
    parser.add_argument("--tokens", type=int, default=131_072, help="per layer")
    parser.add_argument("--batch-rows", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--work", type=Path, help="folder for temporary files")
    parser.add_argument("--json", type=Path, help="write the figures there")
    options = parser.parse_args()
    options.data = [path.resolve() for path in options.data]
    return options


if __name__ == "__main__":
    main()
