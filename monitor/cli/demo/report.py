"""The demo's table: what each prompt was, what the monitor said, and whether that was right."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich import box
from rich.table import Table
from rich.text import Text

from monitor.cli.demo.prompts import Kind
from monitor.cli.demo.traffic import Answer
from monitor.v1 import generations_pb2

Summaries = Mapping[str, generations_pb2.GenerationSummary]


def is_flagged(summary: generations_pb2.GenerationSummary | None) -> bool:
    return summary is not None and bool(summary.fired)


def generations_table(answers: Sequence[Answer], summaries: Summaries) -> Table:
    """One row per prompt, in the order in which they were sent, under a line for each kind of prompt."""
    table = Table(
        title="All generations: highest score of each detector, positions seen of all",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        collapse_padding=True,
    )
    detectors = {peak.detector: peak.fire for summary in summaries.values() for peak in summary.peaks}
    for column, options in (
        # The first column to give way when the terminal is narrow.
        ("prompt", {"max_width": 40}),
        ("verdict", {}),
        ("judged", {"no_wrap": True}),
        *((f"{detector}\n≥ {fire:.2f}", {"justify": "right", "no_wrap": True}) for detector, fire in detectors.items()),
        ("coverage", {"justify": "right", "no_wrap": True}),
    ):
        table.add_column(column, **options)  # type: ignore[arg-type]
    kind = ""
    for answer in answers:
        if answer.prompt.kind != kind:
            kind = answer.prompt.kind
            table.add_row(Text(kind, style="bold"))
        summary = summaries.get(answer.external_id)
        table.add_row(
            Text(answer.prompt.text, no_wrap=True, overflow="ellipsis"),
            _verdict(answer, summary),
            _judged(answer.prompt.kind, summary),
            *(_peak(summary, detector) for detector in detectors),
            f"{summary.coverage.observed}/{summary.coverage.positions}" if summary else "none",
        )
    return table


def tally(answers: Sequence[Answer], summaries: Summaries) -> list[str]:
    """How the monitor did, in words, misses and false alarms included."""
    lines = []
    for kind, word in (
        ("harmful", "flagged"),
        ("hard benign", "flagged (false alarms)"),
        ("ordinary", "flagged (false alarms)"),
    ):
        group = [answer for answer in answers if answer.prompt.kind == kind]
        hits = sum(is_flagged(summaries.get(answer.external_id)) for answer in group)
        lines.append(f"{kind}: {hits} of {len(group)} {word}")
    return lines


def _verdict(answer: Answer, summary: generations_pb2.GenerationSummary | None) -> Text:
    if answer.error:
        return Text(f"request failed: {answer.error}", style="bold red")
    if summary is None:
        return Text("not seen by the sidecar", style="bold red")
    if summary.fired:
        return Text(", ".join(name.rpartition("/")[2] for name in summary.fired), style="red")
    return Text("clear")


def _judged(kind: Kind, summary: generations_pb2.GenerationSummary | None) -> Text:
    if summary is None:
        return Text("-")
    match kind == "harmful", is_flagged(summary):
        case True, True:
            return Text("hit", style="green")
        case True, False:
            return Text("MISS", style="bold yellow")
        case False, True:
            return Text("FALSE ALARM", style="bold yellow")
        case _:
            return Text("correct", style="green")


def _peak(summary: generations_pb2.GenerationSummary | None, detector: str) -> Text:
    for peak in summary.peaks if summary else ():
        if peak.detector == detector:
            return Text(f"{peak.score:.2f}", style="red" if peak.score >= peak.fire else "")
    return Text("-")
