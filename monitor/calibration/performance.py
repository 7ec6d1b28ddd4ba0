"""What a policy does to a sample: false alarms and recall, whole and by source."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from monitor.calibration.area import Area, Histogram, area, histogram, roc
from monitor.calibration.bounds import Rate, rate
from monitor.calibration.generation import Generation
from monitor.calibration.judged import Judged
from monitor.calibration.levels import Levels
from monitor.calibration.settings import Settings

Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class DetectorPerformance:
    """One detector on a sample.

    Attributes:
        levels: its thresholds.
        unjudged: benign generations of which it judged fewer tokens than `minTokens`; they count as not fired.
        false_alarms: benign generations on which it fires.
        recall: harmful ones on which it fires; None without harmful generations.
        area: None without harmful generations.
        roc: points (false alarms, recall); empty without harmful generations.
        histogram: None where it judged nothing.
    """

    levels: Levels
    unjudged: int
    false_alarms: Rate
    recall: Rate | None
    area: Area | None
    roc: list[tuple[float, float]]
    histogram: Histogram | None


@dataclass(frozen=True)
class Performance:
    """A whole policy on a sample: rules, persistence and all.

    Attributes:
        false_alarms: benign generations on which some rule fires.
        by_source: the same per source.
        recall: harmful generations on which some rule fires; None without harmful generations.
        recall_by_source: the same per source; empty without harmful generations.
        recall_by: the same per source and category.
        rules: per rule, benign generations on which it fires.
        detectors: by id.
    """

    false_alarms: Rate
    by_source: dict[str, Rate]
    recall: Rate | None
    recall_by_source: dict[str, Rate]
    recall_by: dict[str, Rate]
    rules: dict[str, Rate]
    detectors: dict[str, DetectorPerformance]


def performance(
    generations: Sequence[Generation], judged: Judged, levels: dict[str, Levels], settings: Settings
) -> Performance:
    """From verdicts at `levels`."""
    harmful_g = np.array([generation.is_harmful for generation in generations], np.bool_)
    sources = [generation.source or "(no source)" for generation in generations]
    kinds = [
        " / ".join(filter(None, (generation.source, generation.category))) or "(no source)"
        for generation in generations
    ]

    def of(flagged_g: Bools, chosen_g: Bools) -> Rate:
        return rate(int(flagged_g[chosen_g].sum()), int(chosen_g.sum()), settings.confidence)

    def split(names: Sequence[str], chosen_g: Bools) -> dict[str, Rate]:
        names_g = np.array(names, object)
        found = sorted({name for name, chosen in zip(names, chosen_g.tolist(), strict=True) if chosen})
        return {name: of(judged.flagged_g, chosen_g & (names_g == name)) for name in found}

    has_harmful = bool(harmful_g.any())
    return Performance(
        false_alarms=of(judged.flagged_g, ~harmful_g),
        by_source=split(sources, ~harmful_g),
        recall=of(judged.flagged_g, harmful_g) if has_harmful else None,
        recall_by_source=split(sources, harmful_g),
        recall_by=split(kinds, harmful_g),
        rules={name: of(fired_g, ~harmful_g) for name, fired_g in judged.rules.items()},
        detectors={name: _detector(judged, name, harmful_g, levels[name], settings) for name in judged.peaks},
    )


def _detector(judged: Judged, name: str, harmful_g: Bools, levels: Levels, settings: Settings) -> DetectorPerformance:
    peaks_g, fired_g = judged.peaks[name], judged.fired[name]
    benign_b, harmful_h = peaks_g[~harmful_g], peaks_g[harmful_g]
    shown = [level for level in (levels.fire, levels.warn, levels.clear) if level is not None]
    both = bool(benign_b.size and harmful_h.size)
    return DetectorPerformance(
        levels=levels,
        unjudged=int((~np.isfinite(benign_b)).sum()),
        false_alarms=rate(int(fired_g[~harmful_g].sum()), benign_b.size, settings.confidence),
        recall=rate(int(fired_g[harmful_g].sum()), harmful_h.size, settings.confidence) if harmful_h.size else None,
        area=area(benign_b, harmful_h, settings.confidence, settings.resamples),
        roc=roc(benign_b, harmful_h) if both else [],
        histogram=histogram(benign_b, harmful_h, shown) if np.isfinite(peaks_g).any() and benign_b.size else None,
    )
