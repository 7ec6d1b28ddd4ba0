"""A report on the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from monitor.calibration.bounds import Rate
from monitor.calibration.levels import Levels
from monitor.calibration.performance import Performance
from monitor.calibration.promise import Promise, Standing
from monitor.calibration.report import Data, Report, Verdict

_STYLES = {Verdict.PASS: "green", Verdict.INCONCLUSIVE: "yellow", Verdict.STALE: "red", Verdict.DEGRADED: "red"}
_STANDINGS = {Standing.KEPT: "[green]kept[/green]", Standing.OPEN: "within its interval"}
_STANDINGS[Standing.BROKEN] = "[bold red]broken[/bold red]"


def show(report: Report, console: Console) -> None:
    """Prints everything but the difference to the file."""
    for line in _head(report):
        console.print(line, highlight=False, soft_wrap=True)
    console.print(_detectors(report))
    console.print(_alarms(report, report.sample, "on the generations that thresholds were chosen on"))
    if (found := with_harmful(report)) is not None:
        console.print(_recall(found, recall_name(report.data)))
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
    table = Table(
        "detector",
        "warn / fire / clear",
        "",
        "benign fired",
        "at most",
        recall_name(report.data),
        "AUROC",
        box=None,
        pad_edge=True,
    )
    for name, found in report.sample.detectors.items():
        new = "" if report.fitted is None else f"→ {_levels(report.fitted[name])}"
        area = found.area
        table.add_row(
            escape(name),
            _levels(report.stated[name]),
            new,
            f"{found.false_alarms.hits:,} of {found.false_alarms.n:,}",
            percent(found.false_alarms.upper),
            "" if found.recall is None else f"{found.recall.share:.1%}",
            "" if area is None else f"{area.value:.3f} ({area.low:.3f} to {area.high:.3f})",
        )
    return table


def _alarms(report: Report, found: Performance, where: str) -> Table:
    table = Table(
        "false alarms", "n", "flagged", "rate", f"interval ({report.settings.confidence:.0%})", "at most", box=None
    )
    if report.held is not None:
        table.title, table.title_justify, table.title_style = where, "left", "dim"
    for name, rate in {"whole policy": found.false_alarms, **_rules(found), **found.by_source}.items():
        table.add_row(
            escape(name), f"{rate.n:,}", f"{rate.hits:,}", percent(rate.share), interval(rate), percent(rate.upper)
        )
    return table


def _rules(found: Performance) -> dict[str, Rate]:
    return {f"rule {name}": rate for name, rate in found.rules.items()} if len(found.rules) > 1 else {}


def _recall(found: Performance, head: str) -> Table:
    table = Table("harmful", "n", "found", head, "interval", box=None)
    whole = {} if found.recall is None else {"all": found.recall}
    for name, rate in {**whole, **found.recall_by}.items():
        table.add_row(escape(name), f"{rate.n:,}", f"{rate.hits:,}", f"{rate.share:.1%}", interval(rate))
    return table


def _promises(report: Report) -> Table:
    table = Table("kept back", "n", "flagged", "rate", "interval", "the promise", "", box=None)
    table.title, table.title_justify = f"On what was kept back: {escape(report.how_held)}", "left"
    for name, found in report.promises.items():
        rate = found.rate
        table.add_row(
            escape(name),
            f"{rate.n:,}",
            f"{rate.hits:,}",
            percent(rate.share),
            interval(rate),
            _STANDINGS[found.standing],
            promise_text(found, report.settings.target),
        )
    return table


def _levels(levels: Levels) -> str:
    shown = (levels.warn, levels.fire, levels.clear)
    return " / ".join("–" if level is None else f"{level:g}" for level in shown)
