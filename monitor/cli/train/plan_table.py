"""The plan of a run on the terminal."""

from __future__ import annotations

from rich.table import Table

from monitor.cli.common import console
from training.plan import Plan


def show_plan(plan: Plan) -> None:
    """Prints it."""
    table = Table("SAE", "architecture", "latents × width", "steps", "memory", "time", title_justify="left")
    for sae in plan.saes:
        table.add_row(
            sae.name,
            sae.architecture,
            f"{sae.latents:,} × {sae.width:,}",
            f"{sae.steps:,} of {plan.batch_rows:,} rows",
            _bytes(sae.memory),
            _time(sae.step_seconds * sae.steps),
        )
    console.print(table)
    lines = [
        ("rows", plan.rows),
        ("forward passes", _time(plan.harvest_seconds)),
        ("training", f"{_time(plan.train_seconds)} (a step measured on random rows, no latent dead)"),
        ("memory", f"about {_bytes(plan.memory)}, without the model; the card loads the whole model in float32"),
        ("disk", f"{_bytes(plan.disk)} to be written, {_bytes(plan.free)} free"),
    ]
    for name, text in lines:
        console.print(f"{name:<15} {text}", highlight=False, soft_wrap=True, markup=False)
    console.print("Nothing was written.")


def _time(seconds: float | None) -> str:
    if seconds is None:
        return "unknown"
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _bytes(count: int) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"
