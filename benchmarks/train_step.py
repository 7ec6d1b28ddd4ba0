"""One training step of each architecture, ours and the installed peers', interleaved in one run.

    python -m venv peers && peers/bin/pip install -r benchmarks/requirements-peers.txt -e '.[training]'
    peers/bin/python benchmarks/train_step.py [--kinds topk,batchtopk] [--peers sparsify] [--rounds 15] [--json FILE]

Every library takes its own training step (with its clipping, its counters and its own optimiser) on the same
synthetic rows from the same weights; each round runs every case once, so that whatever else the machine does falls on
all of them. Learning rates are next to 0: the work of a step does not depend on them, and the number of active latents
(L0, printed) stays at k for all. What the auxiliary loss costs depends on how many latents are dead: `--dead` says
which share of them counts as dead where it is on; in the rows "auxK off" peers have none. Ours is always on. Peers that
are not installed are named.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import platform
import statistics
import time
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from training_step import dictionary_learning, encode, llamascopium, ours, saelens, sparsify
from training_step.case import Case, Stepper
from training_step.world import make_world

PEERS = {
    "sae_lens": saelens,
    "sparsify": sparsify,
    "dictionary_learning": dictionary_learning,
    "llamascopium": llamascopium,
}
KINDS = ("batchtopk", "topk", "matryoshka", "jumprelu", "relu", "gated")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", default=",".join((*KINDS, "encode")), help="architectures, and encode")
    parser.add_argument("--peers", default=",".join(PEERS), help="packages to compare with")
    parser.add_argument("--width", type=int, default=576)
    parser.add_argument("--latents", type=int, default=4608)
    parser.add_argument("--rows", type=int, default=4096)
    parser.add_argument("--k", type=int, default=32)
    parser.add_argument("--dead", type=float, default=0.1, help="share of the latents that count as dead")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    console = Console(width=120)
    missing = [name for name in PEERS if importlib.util.find_spec(name) is None]
    peers = [name for name in options.peers.split(",") if name not in missing]
    console.print(
        f"d {options.width}, m {options.latents}, {options.rows} rows, k {options.k}, float32, "
        f"{options.threads} threads, torch {torch.__version__}; {options.dead:.0%} of the latents dead where auxK is on"
        + (f"; not installed: {', '.join(missing)}" if missing else "")
    )
    results: list[dict[str, object]] = []
    for kind in options.kinds.split(","):
        if kind == "encode":
            results += encode.measure(options, console)
            continue
        results += _compare(kind, peers, options, console)
    if options.json:
        facts = {"machine": platform.processor() or platform.machine(), "torch": torch.__version__, "missing": missing}
        settings = {key: value for key, value in vars(options).items() if key != "json"}
        options.json.write_text(json.dumps({**facts, "settings": settings, "results": results}, indent=1))


def _compare(kind: str, peers: list[str], options: argparse.Namespace, console: Console) -> list[dict[str, object]]:
    world = make_world(options.width, options.latents, options.rows, options.k, options.dead)
    cases = [case for case in ours.cases(options.k, True) if case.kind == kind]
    for name in peers:
        cases += [case for case in PEERS[name].cases(options.k, True) if case.kind == kind]
    steppers = [(case, case.start(world)) for case in cases]
    times = _interleaved(steppers, options.rounds)
    best = statistics.median(times[0])
    table = Table("library", "", "L0", "median ms", "min ms", "tokens/s", "ours is faster by", "by min", title=kind)
    rows = []
    for (case, stepper), seconds in zip(steppers, times, strict=True):
        median, least, l0 = statistics.median(seconds), min(seconds), stepper.l0()
        stepper.close()
        ratios = (median / best, least / min(times[0]))
        rows.append(
            {
                "kind": kind,
                "library": case.library,
                "note": case.note,
                "l0": l0,
                "median_ms": 1e3 * median,
                "min_ms": 1e3 * least,
                "tokens_per_second": options.rows / median,
                "ours_faster": ratios[0],
                "ours_faster_by_min": ratios[1],
            }
        )
        figures = [f"{l0:.1f}", f"{1e3 * median:.0f}", f"{1e3 * least:.0f}", f"{options.rows / median:,.0f}"]
        table.add_row(case.library, case.note, *figures, f"{ratios[0]:.2f}", f"{ratios[1]:.2f}")
    console.print(table)
    return rows


def _interleaved(steppers: list[tuple[Case, Stepper]], rounds: int) -> list[list[float]]:
    """Seconds of each case's steps; two rounds before them warm up."""
    times: list[list[float]] = [[] for _ in steppers]
    for done in range(-2, rounds):
        for (_, stepper), seconds in zip(steppers, times, strict=True):
            started = time.perf_counter()
            stepper.step()
            if done >= 0:
                seconds.append(time.perf_counter() - started)
    return times


if __name__ == "__main__":
    main()
