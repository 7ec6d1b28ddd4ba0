"""An explanation as text."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from rich.text import Text

from monitor.cli.policy.explained_alerts import alert_lines, correlation_words, late_words
from monitor.cli.printable import printable_line
from monitor.policy import STALE_RULE, CompiledDetector, DetectorState, Mode, Phase
from monitor.replay import Explanation, Recorded, RuleView, Span

#: By their codes.
STATE_NAMES = {0: "unknown", **{int(state): state.name.lower() for state in DetectorState}}
_STYLES = {"warn": "yellow", "fire": "bold red", "unknown": "dim"}
_TRUTH = {True: "✓", False: "✗", None: "?"}
_TEXT = 60
_LEGEND = (
    "Below tokens that are told together: of each detector their scores → its aggregate, both lowest … highest, and "
    "its state after them; of each rule the states that it names, where one of them changed."
)


def head_lines(explained: Explanation, recorded: Recorded) -> Iterator[Text]:
    """Which policy on which generation, its detectors and rules, alerts of others, and what cannot be known."""
    policy, summary = explained.policy, recorded.record.summary
    how = "as it judged" if explained.recorded else "as it would have judged"
    name = printable_line(f"{summary.generation_id[:8]} ({summary.external_id or summary.request_id})")
    yield Text(f"policy {policy.name} revision {policy.revision}, {how} generation {name}", style="bold")
    if explained.mode is Mode.OFF:
        yield Text(f"  it does not judge this generation: {printable_line(explained.reason)}", style="yellow")
    else:
        why = f": {printable_line(explained.reason)}" if explained.reason else ""
        # A lower mode than the file's comes of fittedOn alone.
        told = f"; rule {STALE_RULE} alerts of it once for the tap" if why and explained.recorded else ""
        yield Text(f"  mode {explained.mode.name.lower()}{why}{told}", style="yellow" if why else "")
    for one in explained.detectors:
        yield Text(f"  detector {one.id}: {_aggregate(one)}; warn {one.warn:g}, fire {one.fire:g}, clear {one.clear:g}")
    for view in explained.rules:
        yield Text(f"  rule {view.rule.id}: {printable_line(view.rule.when)}, for {view.rule.hold}")
    for correlation in explained.policy.document.spec.correlations:
        if explained.only in ("", correlation.id):
            yield Text(f"  correlation {correlation.id}: {correlation_words(correlation)}")
    yield from alert_lines(explained, recorded)
    for line in unknown_lines(explained, recorded):
        yield Text(f"  not known: {printable_line(line)}", style="yellow")


def unknown_lines(explained: Explanation, recorded: Recorded) -> list[str]:
    """What the record does not say."""
    lines = list(explained.unknown)
    if recorded.record.content == "none":
        lines.append("token texts: a policy with record.content none fired, or nothing did")
    coverage = recorded.record.summary.coverage
    for count, what in ((coverage.dropped, "dropped"), (coverage.unseen, "unseen")):
        if count:
            lines.append(f"{count} {what} position{'s' * (count > 1)}: no detector saw what was there")
    return lines


def span_lines(explained: Explanation, recorded: Recorded) -> Iterator[Text]:
    """Each span with what is new in it; a detector or rule that goes on as before is left out."""
    if explained.spans:
        yield Text(_LEGEND, style="dim")
    before: Span | None = None
    for span in explained.spans:
        yield _where(recorded, span)
        judged = ~np.isnan(explained.token_scores_pd[span.first : span.last + 1])
        if not judged.any():
            yield Text(f"      not judged{_gap(recorded, span)}", style="dim")
        for d, detector in enumerate(explained.detectors):
            if judged[:, d].any():
                yield _detector_line(explained, span, before, d, detector)
        for view in explained.rules:
            if line := _rule_line(view, span, before):
                yield line
                yield from _firing_lines(recorded, explained, view, span)
        before = span


def _where(recorded: Recorded, span: Span) -> Text:
    tokens = recorded.record.tokens[span.first : span.last + 1]
    text = printable_line("".join(token.text for token in tokens))
    shown = f" “{text if len(text) <= _TEXT else text[: _TEXT // 2] + ' … ' + text[-_TEXT // 2 :]}”" if text else ""
    place = str(span.first) if span.first == span.last else f"{span.first}–{span.last}"
    return Text(f"{place:>9} {phase_name(tokens[0].phase)}{shown}")


def _gap(recorded: Recorded, span: Span) -> str:
    if bool(recorded.observed_p[span.first]):
        return ""
    reasons = [
        gap.reason
        for gap in recorded.record.gaps
        if gap.first_position <= span.last and gap.first_position + gap.count > span.first
    ]
    return f": {printable_line(', '.join(reasons))}" if reasons else ": the model never processed it"


def _detector_line(explained: Explanation, span: Span, before: Span | None, d: int, detector: CompiledDetector) -> Text:
    part = slice(span.first, span.last + 1)
    token_scores = explained.token_scores_pd[part, d]
    judged = ~np.isnan(token_scores)
    state = STATE_NAMES[int(explained.states_pd[span.last, d])]
    was = "clear" if before is None else STATE_NAMES[int(explained.states_pd[before.last, d])]
    line = Text(f"      {detector.id:<16} token {_range(token_scores[judged])}")
    line.append(f"  → {_range(explained.scores_pd[part, d][judged])}  ")
    line.append(state if state == was else f"{was} → {state}", style=_STYLES.get(state, ""))
    return line


def _rule_line(view: RuleView, span: Span, before: Span | None) -> Text | None:
    fires = span.first in view.fired
    at = span.last
    same = before is not None and view.terms_p[at] == view.terms_p[before.last]
    if same and not fires:
        return None
    if before is None and not view.value_p[at]:
        return None
    terms = ", ".join(
        dict.fromkeys(f"{term} {_TRUTH[value]}" for term, value in zip(view.terms, view.terms_p[at], strict=True))
    )
    line = Text(f"      {view.rule.id:<16} {terms}")
    if view.value_p[at]:
        held = view.held_p[at]
        line.append(f"; holds for {'?' if held is None else held} of {view.rule.hold}")
    if fires:
        actions = f"{view.rule.severity}, {' and '.join(view.rule.actions)}"
        exception = view.fired[span.first]
        line.append(f"  FIRES ({f'excepted by {exception}' if exception else actions})", style="bold red")
    return line


def _firing_lines(recorded: Recorded, explained: Explanation, view: RuleView, span: Span) -> Iterator[Text]:
    """What contributed, where the record says it."""
    if span.first not in view.fired or not explained.recorded:
        return
    for alert in recorded.record.alerts:
        if (alert.policy, alert.rule, alert.position) != (explained.policy.name, view.rule.id, span.first):
            continue
        if late := late_words(alert, view.rule.deadline_ms):
            yield Text(f"        {late}", style="dim")
        for reading in alert.readings:
            for one in reading.contributions[:3]:
                label = f" “{one.label}”" if one.label else ""
                told = f"{reading.detector}: {one.direction}{label} activation {one.activation:.3g}"
                yield Text(f"        {printable_line(told)}, adds {one.contribution:.3g}", style="dim")
    for evidence in recorded.record.evidence:
        for token in evidence.tokens:
            if token.position == span.first:
                pairs = list(zip(token.latents, token.activations, strict=True))[:3]
                shown = ", ".join(f"{latent} ({activation:.3g})" for latent, activation in pairs)
                yield Text(f"        {printable_line(evidence.sae)}: strongest latents {shown}", style="dim")


def _aggregate(detector: CompiledDetector) -> str:
    details = {
        "ema": f"half-life {detector.half_life:g}",
        "rolling_mean": f"of {detector.window}",
        "count_over": f"over {detector.over:g} of {detector.window}",
        "cusum": f"drift {detector.drift:g}",
    }.get(detector.aggregate, "")
    then = ", then max" if detector.then_max else ""
    least = f", from {detector.min_tokens} tokens" if detector.min_tokens > 1 else ""
    return f"{detector.aggregate} {details}".rstrip() + then + least


def _range(values: npt.NDArray[np.float64]) -> str:
    """Lowest to highest; one number where they are the same."""
    return " … ".join(dict.fromkeys(f"{value:.3g}" for value in (values.min(), values.max())))


def phase_name(code: int) -> str:
    return Phase(code).name.lower() if code else "unknown"
