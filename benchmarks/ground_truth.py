"""What each recipe finds in a synthetic world whose features are known.

    python benchmarks/ground_truth.py
    python benchmarks/ground_truth.py --recipe batchtopk --recipe relu --active 6

Prints, per recipe: mean max cosine similarity of features to latents and of latents to features, precision, recall and
F1 of firing after matching, dead and duplicated latents, absorption, L0 and FVU. Options are the fields of
`WorldConfig` and `GroundTruthConfig` (training/synthetic).
"""

from __future__ import annotations

import argparse
from dataclasses import fields
from typing import Any

from rich.console import Console
from rich.table import Table

from monitor.errors import FeaturewatchError
from training.architectures.registry import ARCHITECTURES
from training.synthetic.config import WorldConfig
from training.synthetic.ground_truth import GroundTruthConfig, ground_truth
from training.synthetic.score import Score


def main() -> None:
    parser = argparse.ArgumentParser(description="Scores recipes in a synthetic world.")
    parser.add_argument("--recipe", action="append", choices=list(ARCHITECTURES), help="by default all")
    for owner in (WorldConfig, GroundTruthConfig):
        for item in fields(owner):
            parser.add_argument(
                f"--{item.name.replace('_', '-')}",
                type=type(item.default),
                default=item.default,
                help=f"{item.metadata['help']} (default: {item.default})",
            )
    given = vars(parser.parse_args())
    world, config = _settings(WorldConfig, given), _settings(GroundTruthConfig, given)
    columns = {item.name: item.name.replace("_", " ") for item in fields(Score)}
    table = Table("recipe", *columns.values(), title=f"{world.features} features in {world.width} dimensions")
    console = Console(width=200)
    for name in given["recipe"] or ARCHITECTURES:
        try:
            ((_, result),) = ground_truth(world, config, [name])
        except FeaturewatchError as error:  # a recipe that finds nothing is a result, too
            console.print(f"{name}: {error}")
            continue
        table.add_row(name, *(f"{getattr(result, column):.3f}" for column in columns))
        console.print(f"{name}: feature cosine {result.feature_cosine:.3f}, F1 {result.f1:.3f}")
    console.print(table)


def _settings(owner: Any, given: dict[str, Any]) -> Any:
    return owner(**{item.name: given[item.name] for item in fields(owner)})


if __name__ == "__main__":
    main()
