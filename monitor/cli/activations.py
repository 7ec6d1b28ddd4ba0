"""`featurewatch activations`: what differs between the engines that compute them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from monitor.cli.common import console, default_zoo, resolve_model
from monitor.cli.printable import printable_line
from monitor.sae import Catalog
from training.comparison.config import CompareConfig
from training.options import default_of, help_of

if TYPE_CHECKING:
    from training.comparison.point import PointDifference
    from training.comparison.rows import RowFigures
    from training.comparison.run import Comparison

app = typer.Typer(help="Compare the activations of Hugging Face and vLLM.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    pass


def _option(name: str, *flags: str) -> Any:
    return typer.Option(
        *flags, help=help_of(CompareConfig, name), show_default=default_of(CompareConfig, name) not in ((), "")
    )


def _default(name: str) -> Any:
    return default_of(CompareConfig, name)


@app.command("compare")
def compare_command(  # noqa: PLR0917
    model: Annotated[str, typer.Argument(help=help_of(CompareConfig, "model"))],
    data: Annotated[list[Path], _option("data")],
    hook_point: Annotated[list[str], _option("hook_points", "--hook-point")],
    sae: Annotated[list[Path] | None, _option("sae")] = None,
    sequences: Annotated[int, _option("sequences")] = _default("sequences"),
    context: Annotated[int, _option("context")] = _default("context"),
    chat_share: Annotated[float, _option("chat_share")] = _default("chat_share"),
    batch_tokens: Annotated[int, _option("batch_tokens")] = _default("batch_tokens"),
    reference_dtype: Annotated[str, _option("reference_dtype")] = _default("reference_dtype"),
    dtype: Annotated[str, _option("dtype")] = _default("dtype"),
    engine_args: Annotated[str, _option("engine_args")] = _default("engine_args"),
    text_field: Annotated[str, _option("text_field")] = _default("text_field"),
    worst: Annotated[int, _option("worst")] = _default("worst"),
    seed: Annotated[int, _option("seed")] = _default("seed"),
    out: Annotated[Path | None, typer.Option(help="Write all figures to this JSON file.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Take the same text through Hugging Face and through vLLM with the tap, and show how far apart they are."""
    from training.comparison.run import compare

    catalog = Catalog(default_zoo())
    found = compare(
        CompareConfig(
            model=resolve_model(model),
            data=tuple(data),
            hook_points=tuple(hook_point),
            sae=tuple(folder if folder.is_dir() else catalog.path(str(folder)) for folder in sae or ()),
            sequences=sequences,
            context=context,
            chat_share=chat_share,
            batch_tokens=batch_tokens,
            reference_dtype=reference_dtype,
            dtype=dtype,
            engine_args=engine_args,
            text_field=text_field,
            worst=worst,
            seed=seed,
        )
    )
    text = json.dumps(found.to_json(), indent=2)
    if out is not None:
        out.write_text(text + "\n")
    if as_json:
        typer.echo(text)
    else:
        _show(found)


def _show(found: Comparison) -> None:
    reference, engine = found.reference, found.engine
    console.print(
        f"{found.sequences:,} sequences, {found.tokens:,} positions: Hugging Face {reference['version']} in "
        f"{reference['dtype']}, vLLM {engine['version']} in {engine['dtype']} ({engine['execution']}, "
        f"{engine['runner'].upper()} runner, {engine['device']})",
        highlight=False,
    )
    for name, point in found.points.items():
        console.print(_rows(name, point))
        if point.saes:
            console.print(_saes(point))
        if point.far:
            console.print(_far(point))


def _rows(name: str, point: PointDifference) -> Table:
    table = Table(name, "content", "all")
    kinds = (point.content, point.everything)

    def add(figure: str, shown: Callable[[RowFigures], str]) -> None:
        table.add_row(figure, *(shown(figures) for figures in kinds))

    add("positions", lambda figures: f"{figures.rows:,}")
    add("relative error p50", lambda figures: f"{figures.error_median:.1e}")
    add("relative error p99", lambda figures: f"{figures.error_p99:.1e}")
    add("relative error max", lambda figures: f"{figures.error_max:.1e}")
    add("cosine p50", lambda figures: f"{figures.cosine_median:.7f}")
    add("cosine min", lambda figures: f"{figures.cosine_min:.7f}")
    add("norm ratio p1", lambda figures: f"{figures.norm_ratio_p1:.5f}")
    add("norm ratio p50", lambda figures: f"{figures.norm_ratio_median:.5f}")
    add("norm ratio p99", lambda figures: f"{figures.norm_ratio_p99:.5f}")
    add("FVU of Hugging Face by vLLM", lambda figures: f"{figures.fvu_of_reference:.1e}")
    add("FVU of vLLM by Hugging Face", lambda figures: f"{figures.fvu_of_engine:.1e}")
    return table


def _saes(point: PointDifference) -> Table:
    table = Table("SAE, on content", "Hugging Face", "vLLM", "agreement")
    for name, figures in point.saes.items():
        table.add_row(
            Text(printable_line(f"{name}: L0")),
            f"{figures.l0_reference:.2f}",
            f"{figures.l0_engine:.2f}",
            f"Jaccard mean {figures.jaccard:.4f}, p1 {figures.jaccard_p1:.3f}; {figures.kept:.2%} of firings kept",
        )
        table.add_row(
            "FVU",
            f"{figures.fvu_reference:.4f}",
            f"{figures.fvu_engine:.4f}",
            f"values of latents that fire in both differ by {figures.magnitude_error:.1e}",
        )
    return table


def _far(point: PointDifference) -> Table:
    table = Table("error", "sequence", "position", "token", "kind", "norm")
    for position in point.far:
        table.add_row(
            f"{position.error:.1e}",
            str(position.sequence),
            str(position.position),
            # Quotes show blanks; text of a corpus is neither markup nor a message to the terminal.
            Text(printable_line(repr(position.token))),
            position.kind,
            f"{position.norm:.1f}",
        )
    return table
