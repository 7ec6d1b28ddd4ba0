"""Token scores of generations that a sidecar recorded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from monitor.audit import AuditStore, PageKey
from monitor.calibration.generation import Generation
from monitor.cli.calibration.subject import Subject
from monitor.cli.policy.recorded import circumstances_of, ingredients_of
from monitor.errors import FeaturewatchError
from monitor.policy.fit import short_name
from monitor.policy.score_trace import ScoreTrace
from monitor.replay import Recorded, read_record
from monitor.replay.same_source import Ingredients, recorded_column
from monitor.replay.shelf import Shelf
from monitor.sidecar.plan import model_name, serving_config
from monitor.sidecar.provenance import provenance_of
from monitor.v1.engine_pb2 import EngineInfo
from monitor.v1.generations_pb2 import GenerationRecord, GenerationSummary

_PAGE = 500


@dataclass(frozen=True)
class WholeRecord:
    """A recorded generation with the token scores of the policy's detectors, from its first token to its last."""

    summary: GenerationSummary
    trace: ScoreTrace


@dataclass(frozen=True)
class Records:
    """Attributes:

    whole: generations that have ended, were seen from their first to their last token, and were judged by the very
        detectors of the policy.
    engine: that computed them.
    left_out: why, and how many others there are.
    unfit: ids of those among them that were wanted.
    """

    whole: list[WholeRecord]
    engine: EngineInfo
    left_out: Counter[str]
    unfit: list[str]


def read_records(
    subject: Subject, store: Path, unwanted: Callable[[GenerationSummary], str] = lambda _summary: ""
) -> Records:
    """What a store holds for a policy.

    Args:
        unwanted: why a generation is left out unseen; empty when it is not.

    Raises:
        FeaturewatchError: there is no such store, it holds nothing usable, or records of several engine configurations.
    """
    sources = {
        (entry.kind, entry.name, entry.sha256)
        for entry in provenance_of(subject.compiled, subject.sources)
        if entry.kind != "policy"
    }
    scores = _DetectorScores(subject)
    left_out: Counter[str] = Counter()
    unfit: list[str] = []
    whole: list[WholeRecord] = []
    engines: dict[bytes, EngineInfo] = {}
    with _opened(store) as audit:
        for summary in _summaries(audit):
            if why := unwanted(summary):
                left_out[why] += 1
                continue
            record = audit.get(summary.generation_id)
            if record is None:
                continue
            trace, why = None, _unfit(record, sources)
            if not why:
                trace, why = scores.of(record)
            if trace is None:
                left_out[why] += 1
                unfit.append(summary.generation_id)
                continue
            whole.append(WholeRecord(record.summary, trace))
            engine = _configuration(record.engine)
            engines[engine.SerializeToString(deterministic=True)] = record.engine
    if not whole:
        shown = ", ".join(f"{count:,} {why}" for why, count in left_out.items()) or "it is empty"
        raise FeaturewatchError(
            f"store {store}",
            f"it holds no generation that thresholds can be taken from ({shown})",
            "let the sidecar record with --keep-share, and the engine compute whole prompts: "
            "--no-enable-prefix-caching, or onUnseen: reread",
        )
    if len(engines) > 1:
        shown = "; ".join(f"{model_name(one)} {one.dtype} vLLM {one.version}" for one in engines.values())
        raise FeaturewatchError(
            f"store {store} with records of {len(engines)} engine configurations ({shown})",
            "thresholds are for one",
            "begin a new store when the configuration changes",
        )
    return Records(whole, next(iter(engines.values())), left_out, unfit)


def read_summaries(store: Path) -> list[GenerationSummary]:
    """Of all generations in a store, the newest first; raises FeaturewatchError."""
    with _opened(store) as audit:
        return [*_summaries(audit)]


def generation_of(record: WholeRecord, is_harmful: bool, source: str, category: str) -> Generation:
    """A record with what is known of it."""
    return Generation(record.summary.generation_id, record.trace, is_harmful, source, category)


def serving_of(engine: EngineInfo) -> dict[str, str]:
    """As the keys of `fittedOn` state it: of the model the last part of its name."""
    serving = serving_config(engine)
    return serving | {"model": short_name(serving["model"])}


class _DetectorScores:
    """Finds each detector's token scores in records, under its own name or that of one that scores alike."""

    def __init__(self, subject: Subject) -> None:
        self._policy = subject.policy
        self._ingredients: dict[str, Ingredients] = ingredients_of(subject.policy, subject.sources)
        self._shelf = Shelf({subject.policy.sha256: subject.policy})

    def of(self, record: GenerationRecord) -> tuple[ScoreTrace | None, str]:
        """The scores, or None and why they are not known."""
        recorded: Recorded = read_record(record, circumstances_of(record), self._shelf)
        scores_p: dict[str, npt.NDArray[np.float64]] = {}
        for detector in self._policy.document.spec.detectors:
            column, why = recorded_column(self._policy, detector, recorded, self._ingredients[detector.id])
            if column < 0:
                return None, f"without token scores of detector {detector.id}: {why}"
            scores_p[f"{self._policy.name}/{detector.id}"] = recorded.token_scores_pd[:, column]
        return recorded.trace(scores_p), ""


def _unfit(record: GenerationRecord, sources: set[tuple[str, str, str]]) -> str:
    """Why a record cannot be calibrated on, as far as it says itself; empty when it can."""
    if not record.summary.end_unix_nanos:
        return "not ended"
    if not sources <= {(entry.kind, entry.name, entry.sha256) for entry in record.provenance}:
        return "judged with another SAE or probe"
    if record.summary.coverage.observed < record.summary.coverage.positions:
        return "with unseen tokens (prefix cache, or dropped)"
    if record.notes:
        return "with irregularities that the record notes"
    return ""


@contextmanager
def _opened(store: Path) -> Iterator[AuditStore]:
    audit = AuditStore(store, read_only=True)
    try:
        yield audit
    finally:
        audit.close()


def _summaries(audit: AuditStore) -> Iterator[GenerationSummary]:
    before: PageKey | None = None
    while page := audit.page(_PAGE, before):
        yield from page
        before = PageKey.of(page[-1])


def _configuration(engine: EngineInfo) -> EngineInfo:
    """The part of an engine's description that thresholds depend on."""
    return EngineInfo(
        model=engine.model,
        revision=engine.revision,
        dtype=engine.dtype,
        quantization=engine.quantization,
        kv_cache_dtype=engine.kv_cache_dtype,
        version=engine.version,
    )
