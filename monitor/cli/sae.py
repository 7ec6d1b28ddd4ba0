"""`featurewatch sae`: look at a dictionary, convert it, measure it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.table import Column, Table
from rich.text import Text

from monitor.cli.common import console
from monitor.cli.printable import printable_line
from monitor.cli.sae_convert import convert
from monitor.cli.sae_eval import evaluate_saes
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
from monitor.sae import Dictionary, GroupMax, JumpRelu, TopK
from monitor.sae.checksum import encode_checksum
from training.card.card import CARD_JSON, Card

app = typer.Typer(help="Look at sparse autoencoders, convert and measure them.", no_args_is_help=True)
app.command("convert")(convert)
app.command("eval")(evaluate_saes)


@app.callback()
def _group() -> None:
    pass


@app.command("info")
def info(  # noqa: PLR0917
    source: Annotated[str, typer.Argument(help=SOURCE_HELP)],
    hook_point: HookPointOption = None,
    model_name: ModelOption = None,
    k: KOption = None,
    norm_factor: NormOption = None,
    zoo: Annotated[list[Path] | None, typer.Option(help="Folder to search for SAE ids.")] = None,
) -> None:
    """Show what an SAE is, the figures of its card and whether its weights are sound."""
    dictionary, folder = read_source(source, hints_from(hook_point, model_name, k, norm_factor), zoo)
    # Folded: half a checksum is of no use.
    value_column = Column("value", overflow="fold")
    table = Table("figure", value_column, title=Text(printable_line(source)), title_justify="left")
    card = _card(folder) if folder else None
    checksum = ("checksum of encode", str(encode_checksum(dictionary)))
    figures, checks = _plain_rows(dictionary), _checks(dictionary)
    if card and folder:
        try:
            figures, checks = card.rows(), [*checks, *_card_checks(card, dictionary)]
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            raise FeaturewatchError(
                f"{folder / CARD_JSON} ({error})",
                "its figures must be of the kind that `featurewatch train` writes",
                "remove it, or take the folder from its source again",
            ) from error
    for name, value in [*figures, checksum]:
        # An SAE may come from anywhere: what its files say is neither markup nor a message to the terminal.
        table.add_row(name, Text(printable_line(str(value))))
    console.print(table)
    for good, text in checks:
        console.print(f"[green]ok[/green]     {text}" if good else f"[red]failed[/red] {text}", highlight=False)
    if not card:
        console.print(f"This SAE has no {CARD_JSON}: nothing is known about its quality.", highlight=False)
    if not all(good for good, _ in checks):
        raise typer.Exit(1)


def _card(path: Path) -> Card | None:
    return Card.load(path) if (path / CARD_JSON).is_file() else None


def _plain_rows(dictionary: Dictionary) -> list[tuple[str, str]]:
    return [
        ("model, hook point", f"{dictionary.model or 'unknown'}, {dictionary.hook_point}"),
        ("shape", f"{dictionary.num_latents:,} latents of width {dictionary.width}"),
        ("format", str(dictionary.metadata.get("source_format", "SAELens"))),
        ("activation", _activation(dictionary)),
        ("sha256", dictionary.sha256),
    ]


def _activation(dictionary: Dictionary) -> str:
    rule = dictionary.activation
    name = type(rule).__name__
    if isinstance(rule, TopK):
        name += f", k = {rule.k}"
    if isinstance(rule, GroupMax):
        name += f", {rule.groups} groups"
    if dictionary.input_norm != "none":
        name += f" on rows after {dictionary.input_norm}"
    return name if dictionary.decides_by_latent else f"{name}; policies cannot watch it"


def _checks(dictionary: Dictionary) -> list[tuple[bool, str]]:
    """Loading has already refused wrong shapes and values that are not finite."""
    norms_m = np.linalg.norm(dictionary.w_dec_md, axis=1)
    checks = [
        (True, "all tensors are there, finite and of matching shapes"),
        (bool((norms_m > 0).all()), f"decoder rows have norms {norms_m.min():.3g} to {norms_m.max():.3g}, none is 0"),
    ]
    if isinstance(dictionary.activation, JumpRelu):
        threshold_m = dictionary.activation.threshold_m
        text = f"thresholds lie between {threshold_m.min():.4g} and {threshold_m.max():.4g}, none is negative"
        checks.append((bool((threshold_m >= 0).all()), text))
    return checks


def _card_checks(card: Card, dictionary: Dictionary) -> list[tuple[bool, str]]:
    belongs = (card.sha256 == dictionary.sha256, "the card belongs to these weights")
    if card.k is None:
        return [belongs]
    off = card.l0_inference / card.k - 1
    allowed = float(card.settings["training"]["threshold_tolerance"])
    return [
        belongs,
        (
            abs(off) <= allowed,
            f"L0 at inference is {card.l0_inference:.2f}, {off:+.1%} from k = {card.k} ({allowed:.0%} allowed)",
        ),
    ]
