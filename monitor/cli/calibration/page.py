"""A report as one HTML page that loads nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from monitor.calibration.performance import DetectorPerformance, Performance
from monitor.calibration.promise import Standing
from monitor.calibration.report import Report, Verdict
from monitor.cli.calibration.charts import roc_chart, score_chart
from monitor.cli.calibration.tables import (
    alarms_by,
    interval,
    percent,
    promise_text,
    recall_name,
    recall_with_all,
    with_harmful,
)
from training.evaluation.page.document import document
from training.evaluation.page.markup import Markup, join, tag, text

_VERDICTS: Final = {
    Verdict.PASS: "The stated calibration still holds on this data.",
    Verdict.STALE: "The stated calibration does not hold here: calibrate again before you rely on it.",
    Verdict.DEGRADED: "The detectors tell harmful from benign less well than stated: new thresholds do not mend that.",
    Verdict.INCONCLUSIVE: "There are too few samples to tell.",
}


def page(report: Report) -> str:
    """The whole document. All that comes from files is escaped."""
    return document(f"Calibration of {report.policy}", _body(report))


def _body(report: Report) -> list[Markup]:
    parts = [
        tag("h1", text(f"Calibration of {report.policy}")),
        tag("p", text(f"revision {report.revision} · {report.engine} · {report.date}"), class_="soft"),
        tag("p", text(_summary(report))),
        *_findings(report),
        _tiles(report),
    ]
    parts += [_detector(report, name, detector) for name, detector in report.sample.detectors.items()]
    parts.append(_alarms(report, report.sample, "False alarms by source"))
    if report.held is not None:
        parts.append(_promises(report))
    if (found := with_harmful(report)) is not None:
        parts.append(_recall(report, found))
    parts.append(_about(report))
    return parts


def _summary(report: Report) -> str:
    alarms, settings = report.sample.false_alarms, report.settings
    if report.verdict is not None:
        return f"{report.verdict.name}. {_VERDICTS[report.verdict]}"
    whose = "of benign generations are flagged" if settings.scope.value == "policy" else "make a detector fire"
    sure = (
        f"With {settings.confidence:.0%} confidence, at most {percent(settings.target)} {whose} by the new thresholds"
        if settings.method.value == "guaranteed"
        else f"In this sample at most {percent(settings.target)} {whose} by the new thresholds"
    )
    elsewhere = "Other traffic may fare differently: the tables by source show by how much."
    if broken := _broken(report):
        elsewhere = f"On what was kept back this promise does not hold for {', '.join(broken)}: see below."
    return (
        f"{sure}, on traffic like this sample: {alarms.hits:,} of {alarms.n:,} were flagged ({interval(alarms)}). "
        f"{elsewhere}"
    )


def _broken(report: Report) -> list[str]:
    return [name for name, found in report.promises.items() if found.standing is Standing.BROKEN]


def _findings(report: Report) -> list[Markup]:
    lines = [f"{finding.verdict.name}: {finding.text}" for finding in report.findings]
    return [tag("p", text(line), class_="note") for line in (*lines, *report.notes)]


def _tiles(report: Report) -> Markup:
    found = report.sample
    shown = [("false alarms", percent(found.false_alarms.share), interval(found.false_alarms))]
    if report.held is not None:
        shown.append(
            ("on what was kept back", percent(report.held.false_alarms.share), interval(report.held.false_alarms))
        )
    if found.recall is not None:
        name = "recall" if report.data.shows_recall else "of those labelled harmful"
        shown.append((name, f"{found.recall.share:.1%}", f"of {found.recall.n:,}: {interval(found.recall)}"))
    shown.append(("benign generations", f"{found.false_alarms.n:,}", f"this target takes at least {report.floor:,}"))
    return tag(
        "div",
        *(
            tag("div", tag("span", text(name)), tag("b", text(value)), tag("span", text(below)), class_="card tile")
            for name, value, below in shown
        ),
        class_="tiles",
    )


def _detector(report: Report, name: str, found: DetectorPerformance) -> Markup:
    levels = found.levels
    shown = [(key, value) for key, value in (("warn", levels.warn), ("fire", levels.fire)) if value is not None]
    cards = []
    if found.histogram is not None:
        key = [tag("li", text("benign"), class_="k1")]
        if found.histogram.harmful is not None:
            key.append(tag("li", text("harmful"), class_="k2"))
        chart = score_chart(f"Scores of {name}", found.histogram, shown)
        cards.append(tag("div", tag("h3", text("Highest score")), chart, tag("ul", *key, class_="key"), class_="card"))
    if found.roc and found.recall is not None and found.area is not None:
        area = found.area
        at = (found.false_alarms.share, found.recall.share)
        chart = roc_chart(
            f"ROC of {name}", found.roc, benign=found.false_alarms.n, target=report.settings.target, at=at
        )
        told = f"AUROC {area.value:.3f} ({area.low:.3f} to {area.high:.3f}). The dot is this threshold."
        cards.append(tag("div", tag("h3", text("Recall over false alarms")), chart, _small(told), class_="card"))
    stated, now = report.stated[name], found.levels
    change = f"fire {stated.fire:g}" + ("" if report.fitted is None else f" → {now.fire:g}")
    told = f"{change} · fires on {found.false_alarms.hits:,} of {found.false_alarms.n:,} benign generations, at most "
    told += percent(found.false_alarms.upper)
    if found.recall is not None:
        share = f"{found.recall.share:.1%}"
        told += f" · recall {share}" if report.data.shows_recall else f" · finds {share} of those labelled harmful"
    if found.unjudged:
        told += f" · {found.unjudged:,} benign ones are too short to be judged"
    return tag(
        "section",
        tag("h2", text(f"Detector {name}")),
        tag("p", text(told), class_="soft"),
        tag("div", *cards, class_="grid-2"),
    )


def _alarms(report: Report, found: Performance, title: str) -> Markup:
    rows = [
        (name, f"{rate.n:,}", f"{rate.hits:,}", percent(rate.share), interval(rate), percent(rate.upper))
        for name, rate in alarms_by(found)
    ]
    head = ("", "benign", "flagged", "rate", f"{report.settings.confidence:.0%} interval", "at most")
    return _table(title, "Of the generations that thresholds were chosen on." if report.fitted else "", head, rows)


def _promises(report: Report) -> Markup:
    broken = _broken(report)
    told = f"Kept back: {report.how_held}. " + (
        f"The promise does not hold for {', '.join(broken)}: traffic like that needs thresholds of its own, or fewer "
        "people will believe the alerts."
        if broken
        else "Nowhere does the data say that the promise is broken; where the interval is wide, it does not say much."
    )
    rows = [
        (
            name,
            f"{found.rate.n:,}",
            f"{found.rate.hits:,}",
            percent(found.rate.share),
            interval(found.rate),
            promise_text(found, report.settings.target),
        )
        for name, found in report.promises.items()
    ]
    return _table("Does the promise hold elsewhere?", told, ("", "benign", "flagged", "rate", "interval", ""), rows)


def _recall(report: Report, found: Performance) -> Markup:
    rows = [
        (name, f"{rate.n:,}", f"{rate.hits:,}", f"{rate.share:.1%}", interval(rate))
        for name, rate in recall_with_all(found, found.recall_by)
    ]
    told = "Of what was kept back." if found is report.held else ""
    head = ("", "harmful", "flagged", recall_name(report.data), "interval")
    return _table("Recall by source and category", told, head, rows)


def _about(report: Report) -> Markup:
    data, serving = report.data, ", ".join(f"{key} {value}" for key, value in report.serving.items() if value)
    lines = [
        f"Benign: {data.benign}",
        *([f"Harmful: {data.harmful}"] if data.harmful else []),
        *(f"Left out: {count:,} {why}" for why, count in data.left_out.items()),
        f"Serving configuration: {serving}",
        f"Policy SHA-256 {report.sha256}",
        "Rates have exact intervals (Clopper and Pearson): two-sided ones, and “at most” is the one-sided bound. AUROC "
        "has a bootstrap's. What each figure means is in docs/calibration.md.",
    ]
    return tag("section", tag("h2", text("How it was measured")), tag("div", *map(_small, lines), class_="card"))


def _table(title: str, told: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> Markup:
    body = [
        tag("tr", tag("th", text(row[0]), scope="row"), *(tag("td", text(cell)) for cell in row[1:])) for row in rows
    ]
    shown = tag("table", tag("thead", tag("tr", *(tag("th", text(c), scope="col") for c in head))), tag("tbody", *body))
    about = tag("p", text(told), class_="soft") if told else join()
    return tag("section", tag("h2", text(title)), about, tag("div", tag("div", shown, class_="scroll"), class_="card"))


def _small(line: str) -> Markup:
    return tag("p", text(line), class_="small soft")
