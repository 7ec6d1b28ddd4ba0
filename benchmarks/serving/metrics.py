"""The sidecar's /metrics, read as numbers."""

from __future__ import annotations

import math
import urllib.request
from collections import defaultdict
from dataclasses import dataclass

from prometheus_client.parser import text_string_to_metric_families


@dataclass(frozen=True)
class Scrape:
    """Samples by name, summed over labels, and histogram buckets by name and upper bound (cumulative)."""

    values: dict[str, float]
    buckets: dict[str, dict[float, float]]


def scrape(port: int) -> Scrape:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    values: dict[str, float] = defaultdict(float)
    buckets: dict[str, dict[float, float]] = defaultdict(lambda: defaultdict(float))
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            values[sample.name] += sample.value
            if sample.name.endswith("_bucket"):
                buckets[family.name][float(sample.labels["le"])] += sample.value
    return Scrape(dict(values), {name: dict(found) for name, found in buckets.items()})


def labelled(port: int, name: str) -> dict[str, float]:
    """One metric's samples by the values of their labels, joined by commas."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    found: dict[str, float] = defaultdict(float)
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name == name:
                found[",".join(sample.labels[key] for key in sorted(sample.labels))] += sample.value
    return dict(found)


def quantile(before: dict[float, float], after: dict[float, float], share: float) -> float:
    """A quantile of what came between two scrapes, linear within its bucket; infinity beyond the last bound."""
    bounds = sorted(after)
    counts = [after[bound] - before.get(bound, 0.0) for bound in bounds]
    wanted, lower, below = share * counts[-1], 0.0, 0.0
    for bound, count in zip(bounds, counts, strict=True):
        if count >= wanted and count > below:
            return math.inf if math.isinf(bound) else lower + (bound - lower) * (wanted - below) / (count - below)
        lower, below = bound, max(count, below)
    return math.nan
