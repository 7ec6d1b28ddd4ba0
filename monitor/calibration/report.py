"""What a calibration, or the check of one, found."""

from __future__ import annotations

import enum
import json
import math
from dataclasses import asdict, dataclass
from typing import Any

from monitor.calibration.labelled import Labelled
from monitor.calibration.levels import Levels
from monitor.calibration.performance import Performance
from monitor.calibration.promise import Promise
from monitor.calibration.settings import Settings

VERSION = 1


class Verdict(enum.Enum):
    """Of an existing calibration; the value is the exit code."""

    PASS = 0
    """The stated thresholds still keep what is stated of them."""
    STALE = 10
    """They were fitted on something else, or the rate of false alarms has left its band."""
    DEGRADED = 11
    """The detectors tell harmful from benign less well than was stated."""
    INCONCLUSIVE = 12
    """Too few samples to tell."""


@dataclass(frozen=True)
class Finding:
    """One thing that speaks for a verdict."""

    verdict: Verdict
    text: str


@dataclass(frozen=True)
class Data:
    """What the generations came from.

    Attributes:
        benign: name with hash, as `calibration.benign` states it.
        harmful: None without harmful generations.
        left_out: why, and how many; e.g. texts that came twice.
        labels: of recorded traffic; None where it has none, and for texts.
    """

    benign: str
    harmful: str | None
    left_out: dict[str, int]
    labels: Labelled | None = None

    @property
    def shows_recall(self) -> bool:
        """Whether the harmful ones are a sample of their own kind, so that recall and AUROC say more than how many of
        those that were found before are found again."""
        return self.labels is None or self.labels.shows_recall

    @property
    def shows_loss(self) -> bool:
        """Whether recall and AUROC that are too low have fallen; else the harmful ones may be hard to find ones."""
        return self.labels is None or self.labels.shows_loss


@dataclass(frozen=True)
class Report:
    """Attributes:

    policy, revision, sha256: of the policy file that was read.
    engine: what computed the activations, in words.
    serving: its configuration, by the keys of `fittedOn`.
    data: names and hashes.
    settings: what was asked for.
    floor: benign generations that the target takes at least.
    thresholds: that were moved together, each of which costs a sample; None when nothing was fitted (--check).
    allowed: benign generations that the target lets be flagged; None when nothing was fitted.
    stated: thresholds as the file has them.
    fitted: thresholds that were found; None when nothing was fitted.
    sample: what the policy does to the generations that thresholds were chosen on, or, when nothing was fitted, what
        the policy as it stands does to all.
    held: what it does to those that were kept back; None when none were.
    how_held: how they were chosen; empty when none were.
    promises: the target on the kept-back ones, whole ("policy") and per source; empty when none were kept back.
    verdict, findings: of an existing calibration; None and empty when one was made.
    notes: what the reader must know besides.
    date: day of the run.
    """

    policy: str
    revision: int
    sha256: str
    engine: str
    serving: dict[str, str]
    data: Data
    settings: Settings
    floor: int
    thresholds: int | None
    allowed: int | None
    stated: dict[str, Levels]
    fitted: dict[str, Levels] | None
    sample: Performance
    held: Performance | None
    how_held: str
    promises: dict[str, Promise]
    verdict: Verdict | None
    findings: tuple[Finding, ...]
    notes: tuple[str, ...]
    date: str

    def json(self) -> str:
        """As text that `baseline` reads again; what could not be measured is null."""
        return json_text({"version": VERSION, **asdict(self)})


def json_text(fields: dict[str, Any]) -> str:
    """Of plain values, verdicts and other enums."""
    return json.dumps(_plain(fields), indent=2, allow_nan=False) + "\n"


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, enum.Enum):
        return value.name.lower() if isinstance(value, Verdict) else value.value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value
