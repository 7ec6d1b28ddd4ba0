"""A good policy on one screen."""

from __future__ import annotations

from rich.markup import escape
from rich.table import Column, Table

from monitor.cli.common import console
from monitor.policy import Policy
from monitor.policy.schema.detector import Calibration, Detector
from monitor.policy.schema.rule import Correlation


def show_policy(policy: Policy) -> None:
    """Prints its head line and a table each of detectors, rules and correlations."""
    spec = policy.document.spec
    console.print(
        f"[bold green]ok[/bold green] [bold]{policy.name}[/bold] revision {policy.revision}, "
        f"mode [bold]{policy.mode.name.lower()}[/bold], sha256 {policy.sha256[:12]}  {escape(policy.file)}",
        soft_wrap=True,
        highlight=False,
    )
    detectors = _table("detector", "source", "aggregate", "warn / fire / clear", "calibration")
    for detector in spec.detectors:
        calibration = _calibration(detector.calibration)
        detectors.add_row(detector.id, _source(detector), _aggregate(detector), _threshold(detector), calibration)
    rules = _table("rule", "when", "for", "severity", "actions", "exceptions")
    for rule in spec.rules:
        names = ", ".join(exception.name for exception in rule.exceptions)
        rules.add_row(rule.id, escape(rule.when), rule.hold, rule.severity, ", ".join(rule.actions), names)
    console.print(detectors, rules)
    if spec.correlations:
        correlations = _table("correlation", "of rules", "fires at", "within", "severity")
        for one in spec.correlations:
            correlations.add_row(one.id, ", ".join(one.rules), _bound(one), one.within, one.severity)
        console.print(correlations)


def _table(*heads: str) -> Table:
    """Without frames. In a narrow terminal names go on in the next line: cut off they would name nothing."""
    return Table(*(Column(head, overflow="fold") for head in heads), box=None, pad_edge=True)


def _source(detector: Detector) -> str:
    source = detector.source
    if source.sae_latents:
        count = len(source.sae_latents.latents)
        combine = f"{source.sae_latents.k} of them" if source.sae_latents.k else source.sae_latents.combine
        return escape(f"{count} latent{'s' * (count > 1)} of {source.sae_latents.sae}, {combine}")
    if source.sae_probe:
        return escape(f"SAE probe {source.sae_probe.file}")
    return escape(f"dense probe {source.dense_probe.file}") if source.dense_probe else ""


def _aggregate(detector: Detector) -> str:
    aggregate = detector.aggregate
    settings = [
        f"half-life {aggregate.half_life:g}" if aggregate.half_life is not None else "",
        f"of {aggregate.window} tokens" if aggregate.window is not None else "",
        f"above {aggregate.over:g}" if aggregate.over is not None else "",
        f"drift {aggregate.drift:g}" if aggregate.drift is not None else "",
    ]
    text = " ".join([aggregate.kind, *filter(None, settings)])
    return f"{text}, then max" if aggregate.then else text


def _bound(correlation: Correlation) -> str:
    per = f" per {', '.join(correlation.group_by)}" if correlation.group_by else ""
    if correlation.kind == "ordered":
        return f"each in order{per}"
    return f"{correlation.at_least} {f'{correlation.of}s' if correlation.of else 'firings'}{per}"


def _threshold(detector: Detector) -> str:
    threshold = detector.threshold
    levels = (threshold.warn, threshold.fire, threshold.clear)
    return " / ".join(f"{threshold.fire if level is None else level:g}" for level in levels)


def _calibration(calibration: Calibration | None) -> str:
    if calibration is None:
        return "none stated"
    return f"target {100 * calibration.target_fpr:g} %: {calibration.hits} of {calibration.n} benign fired"
