"""How alerts and generation records look in a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from rich import box
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from monitor.cli.evidence import render_evidence
from monitor.cli.printable import printable_line
from monitor.cli.transcript import Scale, Transcript
from monitor.emit import leading_reading
from monitor.rpc import name_of
from monitor.v1.alerts_pb2 import Alert, DetectorReading, DetectorState, Mode, Phase, Severity
from monitor.v1.coverage_pb2 import Coverage
from monitor.v1.generations_pb2 import GenerationRecord, GenerationSummary

_SEVERITY_STYLES = {
    Severity.SEVERITY_CRITICAL: "bold white on red",
    Severity.SEVERITY_HIGH: "bold red",
    Severity.SEVERITY_MEDIUM: "yellow",
}
_STATE_STYLES = {DetectorState.DETECTOR_STATE_FIRE: "bold red", DetectorState.DETECTOR_STATE_WARN: "yellow"}
_SHOWN_ALERTS = 5
_SHOWN_GAPS = 8
_HASH_LENGTH = 16


def alert_line(alert: Alert) -> Text:
    """One line: time, severity, rule, request, token, score against threshold, direction."""
    line = Text()
    line.append(f"{clock_time(alert.time_unix_nanos, '%H:%M:%S')} ", style="dim")
    severity = name_of(Severity, alert.severity)
    line.append(f"{severity.upper():<8}", style=_SEVERITY_STYLES.get(alert.severity, ""))
    line.append(f" {printable_line(f'{alert.policy}/{alert.rule}')}", style="bold")
    if alert.mode < Mode.MODE_ALERT:
        line.append(" (shadow)", style="dim")
    # An alert of rule on-stale is of no request.
    if request := alert.external_id or alert.request_id:
        line.append(f"  {printable_line(request)}", style="cyan")
        line.append(f" for {printable_line(alert.tenant)}" if alert.tenant else "")
        line.append(f"  token {alert.position} {_quoted(alert)} in {name_of(Phase, alert.phase)}")
    if alert.restored:
        line.append(" (restored)", style="dim")
    for told in _particulars(alert):
        line.append(f"  {told}", style="red")
    reading = leading_reading(alert)
    if reading is not None:
        line.append(f"  {printable_line(reading.detector)} {reading.score:.3g}", style="red")
        line.append(f" {_against(reading)}")
        if reading.contributions:
            top = reading.contributions[0]
            line.append(f"  {printable_line(top.direction)}", style="dim")
            line.append(f" “{printable_line(top.label)}”" if top.label else "", style="dim")
    return line


def _particulars(alert: Alert) -> list[str]:
    """What only some alerts have."""
    found = []
    if alert.correlated:
        found.append(f"completes {len(alert.correlated)} alerts together")
    if alert.exception:
        found.append(f"not sent: exception {printable_line(alert.exception)}")
    if alert.unseen_positions:
        found.append(f"{alert.unseen_positions} positions unseen")
    if alert.dropped_positions:
        found.append(f"{alert.dropped_positions} positions dropped")
    if alert.late:
        found.append("after the deadline")
    return found


def render_generation(record: GenerationRecord) -> RenderableType:
    """A whole record: verdict, transcript coloured by score, rules, evidence, coverage, provenance."""
    parts: list[RenderableType] = [_heading(record)]
    if record.tokens:
        fired: dict[int, list[str]] = {}
        for alert in record.alerts:
            fired.setdefault(alert.position, []).append(alert.rule)
        parts += [Text(), Transcript(record, _scale(record), fired)]
    for alert in record.alerts[:_SHOWN_ALERTS]:
        parts.append(_rule(alert))
        if alert.readings:
            parts.append(Padding(_readings(alert.readings), (0, 0, 1, 2), expand=False))
        if any(reading.contributions for reading in alert.readings):
            parts.append(Padding(_evidence(alert.readings), (0, 0, 0, 2), expand=False))
        parts.append(Text())
    if len(record.alerts) > _SHOWN_ALERTS:
        parts.append(Text(f"… and {len(record.alerts) - _SHOWN_ALERTS} more alerts (see --json)"))
    if record.summary.peaks and not record.alerts:
        parts.append(_peaks(record.summary))
    if record.evidence:
        parts += [render_evidence(record.evidence, record), Text()]
    parts += [_coverage(record), Text(), _provenance(record)]
    return Group(*parts)


def coverage_words(coverage: Coverage) -> str:
    """``all 61 positions judged``, or what is missing of them."""
    if coverage.observed == coverage.positions:
        return f"all {coverage.positions} positions judged"
    missing = [
        f"{count} {word}"
        for count, word in (
            (coverage.restored, "restored from the prefix cache"),
            (coverage.unseen, "never seen by the tap"),
            (coverage.dropped, "dropped on the way"),
        )
        if count
    ]
    return (
        f"{coverage.observed} of {coverage.positions} positions judged, {', '.join(missing) or 'books do not add up'}"
    )


def coverage_cell(coverage: Coverage) -> str:
    """``61/61`` or, with holes, ``29/61 (32 unseen)``."""
    holes = [
        f"{count} {name}"
        for name, count in (("restored", coverage.restored), ("dropped", coverage.dropped), ("unseen", coverage.unseen))
        if count
    ]
    return f"{coverage.observed}/{coverage.positions}" + (f" ({', '.join(holes)})" if holes else "")


def clock_time(unix_nanos: int, form: str = "%Y-%m-%d %H:%M:%S") -> str:
    """Local time; "-" for 0."""
    return datetime.fromtimestamp(unix_nanos / 1e9).astimezone().strftime(form) if unix_nanos else "-"


def _heading(record: GenerationRecord) -> Text:
    summary = record.summary
    text = Text()
    if summary.fired:
        severity = max(alert.severity for alert in record.alerts) if record.alerts else 0
        text.append("FLAGGED ", style="bold red")
        text.append(f"{name_of(Severity, severity)} by {printable_line(', '.join(summary.fired))}", style="bold")
        text.append(f" (mode {name_of(Mode, summary.mode)})\n")
    else:
        text.append("not flagged\n", style="bold green")
    if summary.end_unix_nanos:
        seconds = max(summary.end_unix_nanos - summary.start_unix_nanos, 0) / 1e9
        state = f"ran {seconds:.1f} s"
    else:
        state = "still running or cut off"
    text.append(f"generation {printable_line(summary.generation_id)}\n")
    text.append(f"request    {printable_line(summary.external_id)} (engine id {printable_line(summary.request_id)})\n")
    if summary.tenant:
        text.append(f"tenant     {printable_line(summary.tenant)}\n")
    adapter = f", adapter {printable_line(summary.adapter)}" if summary.adapter else ""
    text.append(f"model      {printable_line(summary.model)}{adapter}\n")
    text.append(f"began      {clock_time(summary.start_unix_nanos)}, {state}, ")
    text.append(f"{summary.prompt_tokens} prompt and {summary.output_tokens} output tokens\n")
    text.append(f"coverage   {coverage_words(summary.coverage)}")
    if record.content == "none" and record.tokens:
        text.append("\ncontent    withheld: record.content is none, scores are kept", style="yellow")
    return text


def _rule(alert: Alert) -> Text:
    text = Text()
    text.append(printable_line(f"{alert.policy}/{alert.rule}"), style="bold red")
    text.append(f" fired at token {alert.position} {_quoted(alert)} in the {name_of(Phase, alert.phase)}")
    if alert.restored:
        text.append(", known from an earlier request with the same prefix")
    elif alert.unseen_positions:
        text.append(f", {alert.unseen_positions} positions from there on were not seen")
    elif alert.dropped_positions:
        text.append(f", {alert.dropped_positions} positions were dropped")
    elif alert.correlated:
        text.append(f", together with {len(alert.correlated) - 1} alerts before it")
    else:
        text.append(f", {alert.latency_nanos / 1e6:.1f} ms after its forward pass")
    if alert.exception:
        text.append(f"; not sent, for exception {printable_line(alert.exception)} held")
    if alert.late:
        text.append("; after the deadline")
    if alert.runbook:
        text.append(f"\n  runbook {printable_line(alert.runbook)}")
    return text


def _readings(readings: Sequence[DetectorReading]) -> Table:
    table = Table("detector", "state", box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for name in ("score", "this token", "warn", "fire", "clear"):
        table.add_column(name, justify="right")
    for one in readings:
        state = Text(name_of(DetectorState, one.state), style=_STATE_STYLES.get(one.state, ""))
        numbers = (one.score, one.token_score, one.warn, one.fire, one.clear)
        detector = _cell(one.detector if one.in_rule else f"{one.detector} (not in the rule)")
        detector.style = "" if one.in_rule else "dim"
        table.add_row(detector, state, *(f"{number:.4g}" for number in numbers))
    return table


def _evidence(readings: Sequence[DetectorReading]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, collapse_padding=True)
    # The label gives way when the terminal is narrow; an index cut off would name nothing.
    for name, options in (
        ("evidence at this token", {"no_wrap": True}),
        ("activation", {"justify": "right", "no_wrap": True}),
        ("adds to score", {"justify": "right", "no_wrap": True}),
        ("label", {}),
    ):
        table.add_column(name, **options)
    for reading in readings:
        if reading.contributions:
            table.add_row(Text(printable_line(reading.detector), style="bold"))
        for one in reading.contributions:
            # The SAE's whole id stands under "What took part".
            direction = "/".join(printable_line(one.direction).split("/")[-2:])
            label = Text(printable_line(one.label) or "no label", style="" if one.label else "dim")
            table.add_row(Text(f"  {direction}"), f"{one.activation:.4g}", f"{one.contribution:+.4g}", label)
    return table


def _peaks(summary: GenerationSummary) -> Table:
    table = Table(
        "detector", "state", box=box.SIMPLE_HEAD, pad_edge=False, title="Highest scores", title_justify="left"
    )
    for name in ("score", "at token", "warn", "fire"):
        table.add_column(name, justify="right")
    for peak in summary.peaks:
        numbers = (f"{peak.score:.4g}", str(peak.position), f"{peak.warn:.4g}", f"{peak.fire:.4g}")
        table.add_row(_cell(f"{peak.policy}/{peak.detector}"), name_of(DetectorState, peak.state), *numbers)
    return table


def _coverage(record: GenerationRecord) -> Text:
    text = Text("Coverage: ", style="bold")
    seen = record.summary.coverage
    text.append(f"{seen.positions} positions = {seen.observed} judged + {seen.restored} restored", style="not bold")
    text.append(f" + {seen.dropped} dropped + {seen.unseen} unseen", style="not bold")
    for gap in record.gaps[:_SHOWN_GAPS]:
        last = gap.first_position + gap.count - 1
        where = f"position {last}" if gap.count == 1 else f"positions {gap.first_position} to {last}"
        text.append(f"\n  {where}: {printable_line(gap.reason)}", style="not bold")
    if len(record.gaps) > _SHOWN_GAPS:
        text.append(f"\n  … and {len(record.gaps) - _SHOWN_GAPS} more gaps", style="not bold")
    for note in record.notes:
        text.append(f"\n  note: {printable_line(note)}", style="yellow not bold")
    return text


def _provenance(record: GenerationRecord) -> Table:
    table = Table(box=None, show_header=False, pad_edge=False, title="What took part", title_justify="left")
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    table.add_column(overflow="fold")
    for one in record.provenance:
        revision = f"revision {one.revision}, " if one.revision else ""
        table.add_row(_cell(f"  {one.kind}"), _cell(one.name), _cell(f"{revision}sha256:{one.sha256[:_HASH_LENGTH]}…"))
    engine = record.engine
    if engine.name:
        facts = [fact for fact in (engine.dtype, engine.execution, engine.device, engine.model) if fact]
        table.add_row("  engine", _cell(f"{engine.name} {engine.version}"), _cell(", ".join(facts)))
    table.add_row("  sidecar", _cell(f"featurewatch {record.sidecar_version}"), "")
    return table


def _scale(record: GenerationRecord) -> Scale | None:
    """The detector that says most: the leading one of the first alert, else the one that came nearest to firing."""
    columns = list(record.score_columns)
    if record.alerts and (reading := leading_reading(record.alerts[0])) is not None:
        name = f"{record.alerts[0].policy}/{reading.detector}"
        if name in columns:
            return Scale(columns.index(name), name, reading.warn, reading.fire)
    peaks = [peak for peak in record.summary.peaks if f"{peak.policy}/{peak.detector}" in columns]
    if not peaks:
        return None
    peak = max(peaks, key=lambda one: (one.state, one.score - one.fire))
    name = f"{peak.policy}/{peak.detector}"
    return Scale(columns.index(name), name, peak.warn, peak.fire)


def _cell(text: str) -> Text:
    """A table cell with text from elsewhere: a plain string would be read as markup."""
    return Text(printable_line(text))


def _against(reading: DetectorReading) -> str:
    """How the score stands to the thresholds, in one sign and one number."""
    if reading.score >= reading.fire:
        return f"≥ fire {reading.fire:.3g}"
    if reading.score >= reading.warn:
        return f"≥ warn {reading.warn:.3g}"
    return f"(fire {reading.fire:.3g})"


def _quoted(alert: Alert) -> str:
    if alert.token:
        return f"“{printable_line(alert.token).strip('⏎').strip() or '⏎'}”"
    return f"id {alert.token_id}" if alert.token_id else "(text withheld)"
