"""A report on the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from monitor.calibration.bounds import Rate
from monitor.calibration.performance import Performance
from monitor.calibration.promise import Promise, Standing
from monitor.calibration.report import Data, Report, Verdict

_STYLES = {Verdict.PASS: "green", Verdict.INCONCLUSIVE: "yellow", Verdict.STALE: "red", Verdict.DEGRADED: "red"}
# Beyond that, categories are for the page.
_MOST_ROWS: Final = 25
_STANDINGS = {Standing.KEPT: "green", Standing.OPEN: "none", Standing.BROKEN: "bold red"}


def show(report: Report, console: Console) -> None:
    """Prints everything but the difference to the file."""
    for line in _head(report):
        console.print(line, highlight=False, soft_wrap=True)
    console.print(_detectors(report))
    console.print(_alarms(report, report.sample))
    if (found := with_harmful(report)) is not None:
        console.print(_recall(report, found))
        if len(found.recall_by) > max(_MOST_ROWS, len(found.recall_by_source)):
            console.print(f"[dim]By {len(found.recall_by)} categories: with --report or --json.[/dim]", highlight=False)
    if report.held is not None:
        console.print(_promises(report))
    for finding in report.findings:
        style = _STYLES[finding.verdict]
        console.print(
            f"[{style}]{finding.verdict.name:<12}[/{style}] {escape(finding.text)}", highlight=False, soft_wrap=True
        )
    for line in _notes(report.notes):
        console.print(line, highlight=False, soft_wrap=True)
    if report.verdict is not None:
        style = _STYLES[report.verdict]
        console.print(f"[bold {style}]{report.verdict.name}[/bold {style}]", highlight=False)


def with_harmful(report: Report) -> Performance | None:
    """The part that recall is told of: what was kept back, if harmful ones are in it; None where there are none."""
    parts = (report.held, report.sample)
    return next((found for found in parts if found is not None and found.recall is not None), None)


def alarms_by(found: Performance) -> list[tuple[str, Rate]]:
    """False alarms of the whole policy, of each rule if there are several, and by source."""
    rules = [(f"rule {name}", rate) for name, rate in found.rules.items()] if len(found.rules) > 1 else []
    return [("whole policy", found.false_alarms), *rules, *found.by_source.items()]


def recall_with_all(found: Performance, parts: Mapping[str, Rate]) -> list[tuple[str, Rate]]:
    """What is found of all harmful ones, then of `parts`; a source may be called "all" too."""
    return [*([] if found.recall is None else [("all", found.recall)]), *parts.items()]


def recall_name(data: Data) -> str:
    """What the share found of the harmful ones is called: see `Data.shows_recall`."""
    return "recall" if data.shows_recall else "of labelled"


def promise_text(found: Promise, target: float) -> str:
    """What a promise on kept-back generations came to, in words."""
    if found.standing is Standing.KEPT:
        return f"holds: at most {percent(found.rate.upper)} here"
    if found.standing is Standing.BROKEN:
        return f"does not hold: at least {percent(found.rate.lower)} here; do not use it on such traffic as it is"
    if found.missing is not None:
        return f"agrees with {percent(target)}; {found.missing:,} more would show it"
    return f"above {percent(target)}, perhaps by chance; give more to tell"


def percent(share: float) -> str:
    return f"{100 * share:.2f} %"


def interval(rate: Rate) -> str:
    return f"{percent(rate.low)} to {percent(rate.high)}"


def _head(report: Report) -> Iterator[str]:
    settings, data = report.settings, report.data
    yield f"[bold]{escape(report.policy)}[/bold] revision {report.revision}, by {escape(report.engine)}"
    yield f"benign  {report.sample.false_alarms.n:,} of {escape(data.benign)}"
    if data.harmful is not None and report.sample.recall is not None:
        yield f"harmful {report.sample.recall.n:,} of {escape(data.harmful)}"
    yield from _left_out(data)
    target = f"target  {percent(settings.target)} of benign generations, confidence {settings.confidence:g}"
    if report.allowed is None:
        yield target
    else:
        yield f"{target}, {settings.method.value}, per {settings.scope.value}: at most {report.allowed:,} flagged"


def about_data(data: Data, notes: Sequence[str]) -> Iterator[str]:
    """Lines on what was not taken, and what the reader must know of the rest."""
    yield from _left_out(data)
    yield from _notes(notes)


def _left_out(data: Data) -> Iterator[str]:
    for why, count in data.left_out.items():
        yield f"[dim]left out: {count:,} {escape(why)}[/dim]"


def _notes(notes: Sequence[str]) -> Iterator[str]:
    for note in notes:
        yield f"[dim]note: {escape(note)}[/dim]"


def _detectors(report: Report) -> Table:
    recall = recall_name(report.data)
    table = Table("detector", "fires at", "benign fired", "at most", recall, "AUROC", box=None)
    for name, found in report.sample.detectors.items():
        new = "" if report.fitted is None else f" → {report.fitted[name].fire:g}"
        area = found.area
        table.add_row(
            escape(name),
            f"{report.stated[name].fire:g}{new}",
            f"{found.false_alarms.hits:,} of {found.false_alarms.n:,}",
            percent(found.false_alarms.upper),
            "" if found.recall is None else f"{found.recall.share:.1%}",
            "" if area is None else f"{area.value:.3f} ({area.low:.3f} to {area.high:.3f})",
        )
    return table


def _alarms(report: Report, found: Performance) -> Table:
    table = Table(
        "false alarms", "n", "flagged", "rate", f"interval ({report.settings.confidence:.0%})", "at most", box=None
    )
    if report.held is not None:
        _entitle(table, "On the generations that thresholds were chosen on:")
    for name, rate in alarms_by(found):
        table.add_row(
            escape(name), f"{rate.n:,}", f"{rate.hits:,}", percent(rate.share), interval(rate), percent(rate.upper)
        )
    return table


def _recall(report: Report, found: Performance) -> Table:
    table = Table("harmful", "n", "found", recall_name(report.data), "interval", box=None)
    if found is report.held:
        _entitle(table, "On what was kept back:")
    parts = found.recall_by if len(found.recall_by) <= _MOST_ROWS else found.recall_by_source
    for name, rate in recall_with_all(found, parts):
        table.add_row(escape(name), f"{rate.n:,}", f"{rate.hits:,}", f"{rate.share:.1%}", interval(rate))
    return table


def _promises(report: Report) -> Table:
    table = Table("kept back", "flagged", "rate", "interval", "the promise", box=None)
    table.columns[0].overflow = "fold"
    _entitle(table, f"On what was kept back, {escape(report.how_held)}:")
    for name, found in report.promises.items():
        rate = found.rate
        table.add_row(
            escape(name),
            f"{rate.hits:,} of {rate.n:,}",
            percent(rate.share),
            interval(rate),
            Text(promise_text(found, report.settings.target), _STANDINGS[found.standing]),
        )
    return table


def _entitle(table: Table, title: str) -> None:
    table.title, table.title_justify, table.title_style = title, "left", "dim"
