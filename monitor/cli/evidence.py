"""What whole dictionaries say of a generation, in a terminal."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from rich import box
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from monitor.cli.printable import printable_line
from monitor.v1.evidence_pb2 import Evidence, TokenEvidence
from monitor.v1.generations_pb2 import GenerationRecord

_SHOWN_LATENTS = 8
_SHOWN_TRIGGERS = 2


@dataclass
class _Sum:
    """A latent over the generation; `share` adds up its part of each token's listed activations."""

    share: float = 0.0
    tokens: int = 0
    highest: float = 0.0
    position: int = 0


def render_evidence(evidence: Sequence[Evidence], record: GenerationRecord | None = None) -> RenderableType:
    """Per dictionary: its strongest latents at the tokens where rules fired, and over the generation."""
    parts: list[RenderableType] = []
    for one in evidence:
        parts.append(_heading(one))
        by_position = {token.position: token for token in one.tokens}
        triggers = {alert.position: alert.rule for alert in reversed(record.alerts)} if record is not None else {}
        for position in [p for p in sorted(triggers) if p in by_position][:_SHOWN_TRIGGERS]:
            text = record.tokens[position].text if record is not None and position < len(record.tokens) else ""
            title = f"at token {position}{_quoted(text)}, where {printable_line(triggers[position])} fired"
            parts.append(_titled(title, _at_token(one, by_position[position])))
        if one.tokens:
            title = "over the generation, by share of each token's top activations"
            parts.append(_titled(title, _over_all(one)))
    return Group(*parts)


def _heading(one: Evidence) -> Text:
    text = Text("Evidence ", style="bold")
    text.append(f"of {printable_line(one.sae)} ({one.num_latents} latents)", style="not bold")
    text.append(f"\n  asked for by {printable_line(one.reason)}; ", style="not bold")
    text.append(f"{len(one.tokens)} of {len(one.tokens) + one.missing} judged tokens", style="not bold")
    if one.missing:
        text.append(f", {one.missing} were no longer recorded or did not arrive", style="yellow not bold")
    if one.tokens:
        active = median(token.active for token in one.tokens)
        error = median(token.error for token in one.tokens)
        text.append(f"\n  median token: {active:g} latents active, {error:.1%} not reconstructed", style="not bold")
    return text


def _at_token(one: Evidence, token: TokenEvidence) -> Table:
    table = _table("activation")
    for latent, activation in list(zip(token.latents, token.activations, strict=False))[:_SHOWN_LATENTS]:
        table.add_row(str(latent), f"{activation:.4g}", _label(one, latent))
    return table


def _over_all(one: Evidence) -> Table:
    sums: defaultdict[int, _Sum] = defaultdict(_Sum)
    for token in one.tokens:
        total = sum(token.activations)
        for latent, activation in zip(token.latents, token.activations, strict=False):
            entry = sums[latent]
            entry.share += activation / total
            entry.tokens += 1
            if activation > entry.highest:
                entry.highest, entry.position = activation, token.position
    table = _table("share", "tokens", "highest", "at token")
    ranked = sorted(sums.items(), key=lambda item: (-item[1].share, item[0]))
    for latent, entry in ranked[:_SHOWN_LATENTS]:
        share = f"{entry.share / len(one.tokens):.1%}"
        numbers = (share, str(entry.tokens), f"{entry.highest:.4g}", str(entry.position))
        table.add_row(str(latent), *numbers, _label(one, latent))
    return table


def _table(*numbers: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column("latent", justify="right", no_wrap=True)
    for name in numbers:
        table.add_column(name, justify="right", no_wrap=True)
    # It gives way when the terminal is narrow.
    table.add_column("label")
    return table


def _label(one: Evidence, latent: int) -> Text:
    label = one.labels.get(latent, "")
    return Text(printable_line(label) or "no label", style="" if label else "dim")


def _quoted(text: str) -> str:
    return f" “{printable_line(text).strip('⏎').strip() or '⏎'}”" if text else ""


def _titled(title: str, table: Table) -> Padding:
    # A title of the table's own would be wrapped at the table's width.
    return Padding(Group(Text(title, style="italic"), table), (1, 0, 0, 2), expand=False)
