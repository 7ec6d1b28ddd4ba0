"""The figures that matter most, side by side, for the terminal and the top of the page."""

from __future__ import annotations

import math
from collections.abc import Callable

from training.evaluation.figure import Figure
from training.evaluation.next_token import Splice
from training.evaluation.report import EvalReport, Probing, SaeReport

Row = tuple[str, list[str]]


def summary_rows(report: EvalReport) -> list[Row]:
    """Name of a figure and its value for every SAE."""
    rows: list[Row] = []

    def add(name: str, show: Callable[[SaeReport], str]) -> None:
        values = [show(sae) for sae in report.saes]
        if any(values):
            rows.append((name, values))

    add("hook point", lambda sae: sae.hook_point)
    add("latents, width", lambda sae: f"{sae.latents:,}, {sae.width:,}")
    add("activation", lambda sae: sae.activation)
    add("rows", lambda sae: f"{sae.reconstruction.rows:,}")
    add("L0 at inference", lambda sae: number(sae.reconstruction.l0, 1))
    add("L0 in training", lambda sae: "" if sae.l0_training is None else f"{sae.l0_training:.1f}")
    add("explained variance", lambda sae: number(sae.reconstruction.explained_variance))
    add("  with outliers", lambda sae: number(sae.reconstruction_with_outliers.explained_variance))
    add("  at every position", lambda sae: number(sae.reconstruction_everywhere.explained_variance))
    add("cosine", lambda sae: number(sae.reconstruction.cosine))
    add("norm ratio", lambda sae: number(sae.reconstruction.norm_ratio))
    add("reconstruction bias", lambda sae: number(sae.reconstruction.bias))
    add("cross-entropy recovered", _spliced(lambda splice: number(splice.recovered)))
    add("  against the mean", _spliced(lambda splice: number(splice.recovered_from_mean)))
    add("KL recovered", _spliced(lambda splice: number(splice.kl_recovered)))
    add(
        "cross-entropy clean → spliced",
        _spliced(lambda splice: f"{splice.clean.value:.3f} → {splice.spliced.value:.3f}"),
    )
    add("silent latents", lambda sae: f"{sae.firing.silent_share:.1%}")
    add("dense latents (> 10 %)", lambda sae: f"{sae.firing.dense_share:.1%}")
    add("nearest decoder row, median", lambda sae: plain(sae.decoder.nearest_quantiles["0.5"]))
    for index, probing in enumerate(report.saes[0].probings):
        for name, unseen in (("held out", False), ("unseen sources", True)):
            add(f"AUROC {probing.file}, {name}", lambda sae, i=index, u=unseen: _areas(sae.probings[i], u))  # type: ignore[misc]
    return rows


def number(figure: Figure, digits: int = 3) -> str:
    """A figure with its interval."""
    if not math.isfinite(figure.value):
        return "not measured"
    if figure.low is None or figure.high is None:
        return f"{figure.value:.{digits}f}"
    return f"{figure.value:.{digits}f} [{figure.low:.{digits}f}, {figure.high:.{digits}f}]"


def plain(value: float, digits: int = 3) -> str:
    return f"{value:.{digits}f}" if math.isfinite(value) else "not measured"


def _spliced(show: Callable[[Splice], str]) -> Callable[[SaeReport], str]:
    return lambda sae: "" if sae.splice is None else show(sae.splice)


def _areas(probing: Probing, unseen: bool) -> str:
    """AUROC of every probe but the majority, e.g. ``k1 0.812 · k5 0.901 · residual 0.960``."""
    shown = []
    for probe in probing.probes:
        found = probe.unseen_sources if unseen else probe.heldout
        if found is not None and probe.name != "majority":
            shown.append(f"{f'k{probe.k}' if probe.k else probe.name} {plain(found.auroc.value)}")
    return " · ".join(shown)
