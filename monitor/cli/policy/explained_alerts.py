"""Alerts of correlations and of reserved rules, explained as text."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from rich.text import Text

from monitor.cli.printable import printable_line
from monitor.policy import DROP_RULE, STALE_RULE, UNSEEN_RULE
from monitor.policy.schema.rule import Correlation
from monitor.policy.vocabulary import RESERVED_RULES
from monitor.replay import Explanation, OtherAlert, Recorded
from monitor.rpc import name_of
from monitor.v1.alerts_pb2 import Alert, Mode, Severity
from monitor.v1.generations_pb2 import CoverageGap

_SHOWN: Final = 5


def alert_lines(explained: Explanation, recorded: Recorded) -> Iterator[Text]:
    """Each such alert with what led to it; of one that was asked for by its rule and is not there, why not."""
    for other in explained.others:
        alert = other.alert
        line = Text(f"  alert {printable_line(alert.rule)}", style="bold")
        mode = ", shadow" if alert.mode < Mode.MODE_ALERT else ""
        line.append(f" at token {alert.position} ({name_of(Severity, alert.severity)}{mode}): ", style="not bold")
        line.append(printable_line(_why(other, explained, recorded)), style="not bold")
        yield line
        if other.correlation is not None:
            yield from _parts(other)
    if explained.recorded and explained.only and not explained.others and (why := _why_not(explained, recorded)):
        yield Text(f"  no alert {explained.only}: {printable_line(why)}")


def correlation_words(correlation: Correlation) -> str:
    """What it counts, up to where, of whom."""
    rules = ", ".join(correlation.rules)
    per = f", per {' and '.join(correlation.group_by)}" if correlation.group_by else ""
    if correlation.kind == "ordered":
        return f"{rules} in this order within {correlation.within}{per}"
    what = f"firings for different {correlation.of}s" if correlation.of else "firings"
    return f"at least {correlation.at_least} {what} of {rules} within {correlation.within}{per}"


def _why(other: OtherAlert, explained: Explanation, recorded: Recorded) -> str:
    alert, spec = other.alert, explained.policy.document.spec
    if other.correlation is not None:
        return correlation_words(other.correlation)
    if alert.rule == UNSEEN_RULE:
        count, where = alert.unseen_positions, _places(other.gaps)
        seen = f"{count} position{'s' * (count > 1)} from there on stayed unseen, and onUnseen is {spec.on_unseen}"
        return f"{seen}; at its end {where}" if where else seen
    if alert.rule == DROP_RULE:
        positions = recorded.record.summary.coverage.positions
        share = 100 * alert.dropped_positions / max(positions, 1)
        bound = f"onDrop bears {100 * spec.on_drop.threshold:g} %" if spec.on_drop is not None else "too many"
        dropped = f"{alert.dropped_positions} of {positions} positions ({share:.3g} %) were dropped, {bound}"
        return f"{dropped}: {_places(other.gaps)}" if other.gaps else dropped
    late = ", ".join(f"{rule.id} {rule.deadline_ms} ms" for rule in other.late)
    told = f"the verdict on it came {alert.latency_nanos / 1e6:.0f} ms after its forward pass, with onTimeout alert"
    return f"{told}; deadlines that were over: {late}" if late else told


def _parts(other: OtherAlert) -> Iterator[Text]:
    """The alerts that a correlation is made of."""
    here = [f"{one.rule} at token {one.position}" for one in other.here]
    for what, parts in (("of this generation", here), ("alerts of other generations", [*other.elsewhere])):
        if parts:
            # The newest come last, and what completed it is the last of all.
            more = f"{len(parts) - _SHOWN} earlier (--json has all), " if len(parts) > _SHOWN else ""
            yield Text(f"        {what}: {more}{printable_line(', '.join(parts[-_SHOWN:]))}", style="dim")


def _why_not(explained: Explanation, recorded: Recorded) -> str:
    """Empty where the rule that was asked for is an ordinary one."""
    rule, spec, coverage = explained.only, explained.policy.document.spec, recorded.record.summary.coverage
    if any(rule == one.id for one in spec.correlations):
        return "nothing on this generation completed it"
    if rule not in RESERVED_RULES:
        return ""
    if rule == STALE_RULE:
        fits = explained.reason or "it was served as fittedOn says"
        return f"it tells of a tap, and is in no generation's record; here: {fits}"
    if rule == UNSEEN_RULE:
        return f"{coverage.unseen} positions were unseen, onUnseen is {spec.on_unseen}"
    if rule == DROP_RULE:
        bound = "there is no onDrop" if spec.on_drop is None else f"onDrop bears {100 * spec.on_drop.threshold:g} %"
        return f"{coverage.dropped} of {coverage.positions} positions were dropped, {bound}"
    asking = ", ".join(one.id for one in spec.rules if one.on_timeout == "alert")
    return f"no verdict came after a deadline of {asking}" if asking else "no rule has onTimeout alert"


def late_words(alert: Alert, deadline_ms: int | None) -> str:
    """Of a rule's own alert: that it came after its deadline; empty when it did not."""
    if not alert.late or deadline_ms is None:
        return ""
    return f"late: {alert.latency_nanos / 1e6:.0f} ms after its forward pass, the deadline is {deadline_ms} ms"


def _places(gaps: tuple[CoverageGap, ...]) -> str:
    """Which positions, and why."""
    told = []
    for gap in gaps[:_SHOWN]:
        last = gap.first_position + gap.count - 1
        where = f"position {last}" if gap.count == 1 else f"positions {gap.first_position}–{last}"
        told.append(f"{where} ({gap.reason})")
    return ", ".join(told) + (f" and {len(gaps) - _SHOWN} more gaps" if len(gaps) > _SHOWN else "")
