"""Does a rate that was promised on some sources of benign text hold on others?

    python benchmarks/calibration_promise.py policies/harmful-intent.yaml --model MODEL --data TEXTS.jsonl.gz

Computes every benign text once. Then, for every way of dividing the benign sources into two halves, thresholds are
calibrated at the target on the one half and the policy is judged on the other; and, to compare, on a random half of the
generations, so that both halves have the same sources. For each source that was not calibrated on it says how often the
promise was kept, open or broken.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from monitor.calibration.bounds import rate
from monitor.calibration.fit import TooFewSamplesError, fit_levels
from monitor.calibration.generation import Generation
from monitor.calibration.judged import judge
from monitor.calibration.promise import Standing, promise
from monitor.calibration.settings import Settings
from monitor.cli.calibration.huggingface import run_huggingface
from monitor.cli.calibration.subject import Subject, read_subject
from monitor.cli.calibration.texts import read_texts
from monitor.cli.calibration.vllm_engine import run_vllm
from monitor.cli.common import default_zoo, resolve_model

Halves = tuple[list[Generation], list[Generation]]


def benign_generations(subject: Subject, options: argparse.Namespace) -> list[Generation]:
    """All benign texts, computed and judged token by token."""
    texts = read_texts([options.data], [], [], split=options.split, limit=options.limit)
    benign = [sample for sample in texts.samples if not sample.is_harmful]
    model = resolve_model(options.model)
    if options.engine == "hf":
        return run_huggingface(subject, benign, model).generations
    return run_vllm(
        subject, benign, model, dtype="float32", context=1024, max_tokens=1, engine_args={}, zoo=default_zoo()
    ).generations


def halves_by_source(benign: Sequence[Generation]) -> Iterator[Halves]:
    """Every choice of half of the sources, with the rest."""
    sources = sorted({generation.source for generation in benign})
    for chosen in itertools.combinations(sources, len(sources) // 2):
        yield (
            [generation for generation in benign if generation.source in chosen],
            [generation for generation in benign if generation.source not in chosen],
        )


def halves_by_chance(benign: Sequence[Generation], count: int) -> Iterator[Halves]:
    rng = np.random.default_rng(0)
    for _ in range(count):
        order = rng.permutation(len(benign))
        middle = len(benign) // 2
        yield [benign[index] for index in order[:middle]], [benign[index] for index in order[middle:]]


def tally(subject: Subject, halves: Iterator[Halves], settings: Settings) -> dict[str, list[tuple[Standing, float]]]:
    """By source that was not calibrated on ("all" for the whole half): what became of the promise, and the rate."""
    found: dict[str, list[tuple[Standing, float]]] = defaultdict(list)
    for fitted, held in halves:
        try:
            fit = fit_levels(subject.policy, fitted, settings)
        except TooFewSamplesError:
            found["(too few to calibrate)"].append((Standing.OPEN, float("nan")))
            continue
        flagged = judge(fit.policy, held).flagged_g
        groups = {"all": np.ones(len(held), bool)}
        groups |= {
            source: np.array([generation.source == source for generation in held])
            for source in {generation.source for generation in held}
        }
        for name, chosen in groups.items():
            counted = rate(int(flagged[chosen].sum()), int(chosen.sum()), settings.confidence)
            found[name].append((promise(counted, settings.target).standing, counted.share))
    return dict(sorted(found.items()))


def show(console: Console, title: str, found: dict[str, list[tuple[Standing, float]]]) -> None:
    table = Table("not calibrated on", "divisions", "median rate", "highest", "kept", "open", "broken", title=title)
    for name, seen in found.items():
        rates, standings = [share for _, share in seen], Counter(standing for standing, _ in seen)
        table.add_row(
            name,
            str(len(seen)),
            *("-" if np.isnan(share) else f"{share:.2%}" for share in (np.median(rates), np.max(rates))),
            *(str(standings[standing]) for standing in (Standing.KEPT, Standing.OPEN, Standing.BROKEN)),
        )
    console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("policy", type=Path)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", type=Path, required=True, help="labelled texts, .jsonl[.gz]")
    parser.add_argument("--split", default="")
    parser.add_argument("--engine", choices=["hf", "vllm"], default="hf")
    parser.add_argument("--target-fpr", type=float, default=0.01)
    parser.add_argument("--limit", type=int, default=0, help="at most so many benign texts; 0: all")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    settings = Settings(target=options.target_fpr)
    subject = read_subject(options.policy, default_zoo())
    benign = benign_generations(subject, options)
    by_source = list(halves_by_source(benign))
    results = {
        "other sources": tally(subject, iter(by_source), settings),
        "other generations of the same sources": tally(subject, halves_by_chance(benign, len(by_source)), settings),
    }
    if options.json:
        plain = {
            title: {name: [(standing.value, share) for standing, share in seen] for name, seen in found.items()}
            for title, found in results.items()
        }
        print(json.dumps(plain))
        return
    console = Console()
    console.print(f"{len(benign):,} benign texts; target {settings.target:.2%}, confidence {settings.confidence:g}")
    for title, found in results.items():
        show(console, title, found)


if __name__ == "__main__":
    main()
