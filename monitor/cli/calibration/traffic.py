"""Recorded traffic as a sample: what was drawn at random counts as benign, unless somebody says that it is harmful."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from monitor.audit import in_sample
from monitor.calibration.labelled import Labelled
from monitor.calibration.report import Data
from monitor.cli.calibration.computed import Computed
from monitor.cli.calibration.labels import Label, Matched, match_labels, read_labels
from monitor.cli.calibration.records import (
    Records,
    WholeRecord,
    generation_of,
    read_records,
    read_summaries,
    serving_of,
)
from monitor.cli.calibration.subject import Subject
from monitor.cli.calibration.texts import data_name
from monitor.errors import FeaturewatchError
from monitor.policy.binomial import probability_of_at_most
from monitor.policy.vocabulary import RESERVED_RULES
from monitor.v1.generations_pb2 import GenerationSummary

_NANOS = 1_000_000_000
# A store that was kept as stated is refused once in so many runs.
_UNLIKELY = 1e-4
# From this share on it is told that some of the sample is missing.
_NOTABLE = 0.05
_UNREAD = (
    "Recorded traffic counts as benign, unread: harmful requests among it make thresholds stricter. Say with --labels "
    "which generations were harmful."
)


def run_records(subject: Subject, store: Path, keep_share: float, labels: Sequence[Path] = ()) -> tuple[Computed, Data]:
    """Recorded traffic: generations of the random sample are benign, but for those that are labelled harmful.

    Of generations outside of the sample, which are there for having been flagged, only those labelled harmful are
    taken: as benign ones they would weigh more than in traffic.

    Args:
        keep_share: of the sidecar that recorded the store, or a smaller one.

    Raises:
        FeaturewatchError: see `require_kept_share`, `read_labels`, `match_labels` and `read_records`.
    """
    summaries = read_summaries(store)
    require_kept_share(store, summaries, keep_share)
    given = read_labels(labels) if labels else []
    matched = match_labels(given, summaries) if given else Matched({}, ())
    by_generation = matched.by_generation

    def unwanted(summary: GenerationSummary) -> str:
        label = by_generation.get(summary.generation_id)
        if in_sample(summary.generation_id, keep_share) or (label is not None and label.is_harmful):
            return ""
        return "not of the sample" if label is None else "labelled benign, but not of the sample"

    found = read_records(subject, store, unwanted)
    generations = [
        generation_of(record, label is not None and label.is_harmful, *_kind(record, label))
        for record in found.whole
        for label in [by_generation.get(record.summary.generation_id)]
    ]
    labelled = _labelled(subject.policy.name, found.whole, matched, keep_share, len(given)) if labels else None
    notes = [_UNREAD] if labelled is None else labelled.notes()
    notes[0] = f"{_period(found.whole)} {notes[0]}"
    notes += _missing(found, keep_share)
    benign = [one.name for one in generations if not one.is_harmful]
    data = Data(
        _sample_name(store, keep_share, benign, labelled),
        data_name(labels) if any(one.is_harmful for one in generations) else None,
        dict(found.left_out),
        labelled,
    )
    engine = f"vLLM {found.engine.version}, as recorded"
    return Computed(generations, engine, serving_of(found.engine), tuple(notes), {}), data


def require_kept_share(store: Path, summaries: Iterable[GenerationSummary], share: float) -> None:
    """Raises FeaturewatchError when a smaller share of what nothing flagged was kept, so that flagged generations weigh
    more than in traffic.

    Generations are drawn by a hash that is uniform on 0 to 1. Of those up to `share` half lie above the half of it: far
    fewer of them speak for a smaller share (binomial test, one-sided), and none at all for none.
    """
    sample = [summary for summary in summaries if in_sample(summary.generation_id, share)]
    drawn = [in_sample(summary.generation_id, share / 2) for summary in sample if not summary.fired]
    if sample and not drawn:
        raise FeaturewatchError(
            f"--keep-share {share:.4g} with {len(sample):,} generations of that share in {store}",
            "every one of them was flagged, as where the sidecar kept nothing else: that is no sample of traffic",
            "let the sidecar record with --keep-share; if policies do flag all that they see, raise thresholds first",
        )
    if drawn and probability_of_at_most(drawn.count(False), len(drawn), 0.5) < _UNLIKELY:
        raise FeaturewatchError(
            f"--keep-share {share:.4g} with {len(drawn):,} unflagged generations in {store}, {drawn.count(True):,} of "
            f"them among the first {share / 2:.4g}",
            "a sidecar that kept this share would have kept about as many above the half of it as below",
            "give the smallest --keep-share with which the sidecar wrote this store",
        )


def _missing(found: Records, share: float) -> list[str]:
    """A note where much of the sample could not be taken."""
    taken = sum(in_sample(one.summary.generation_id, share) for one in found.whole)
    missing = sum(in_sample(name, share) for name in found.unfit)
    if missing < _NOTABLE * (missing + taken):
        return []
    return [
        f"{missing:,} of the sample's {missing + taken:,} generations could not be taken: see what was left out. The "
        "bound says nothing of traffic like them."
    ]


def _kind(record: WholeRecord, label: Label | None) -> tuple[str, str]:
    """Source and category."""
    model = record.summary.model
    return (model, "") if label is None else (label.source or model, label.category)


def _labelled(policy: str, whole: Sequence[WholeRecord], matched: Matched, share: float, given: int) -> Labelled:
    labels: Mapping[str, Label] = matched.by_generation
    summaries = [record.summary for record in whole]
    harmful = [one for one in summaries if one.generation_id in labels and labels[one.generation_id].is_harmful]
    benign = sum(one.generation_id in labels for one in summaries) - len(harmful)
    flagged = {one.generation_id for one in harmful if _was_flagged(one, policy)}
    outside = {one.generation_id for one in harmful if not in_sample(one.generation_id, share)}
    return Labelled(
        given=given,
        unknown=matched.unknown,
        not_taken=len(labels) - len(harmful) - benign,
        harmful=len(harmful),
        flagged=len(flagged),
        outside=len(outside),
        outside_unflagged=len(outside - flagged),
        benign=benign,
        unread=len(summaries) - len(harmful) - benign,
    )


def _was_flagged(summary: GenerationSummary, policy: str) -> bool:
    """Whether a condition of this policy held; positions that were lost or judged too late say nothing of the text."""
    rules = (rule.rpartition("/") for rule in summary.fired)
    return any(owner == policy and rule not in RESERVED_RULES for owner, _, rule in rules)


def _sample_name(store: Path, share: float, benign: Sequence[str], labelled: Labelled | None) -> str:
    """With the hash of the ids that were taken: the store itself goes on growing."""
    about = [] if share == 1 else [f"a sample of {share:.4g}"]
    if labelled is not None:
        about.append(f"{labelled.benign:,} of {labelled.benign + labelled.unread:,} read")
    told = f" ({', '.join(about)})" if about else ""
    return f"{store.name}{told}@sha256:{hashlib.sha256(chr(10).join(sorted(benign)).encode()).hexdigest()}"


def _period(whole: Sequence[WholeRecord]) -> str:
    days = [datetime.fromtimestamp(one.summary.start_unix_nanos // _NANOS, UTC).date().isoformat() for one in whole]
    return f"Traffic from {min(days)} to {max(days)}."
