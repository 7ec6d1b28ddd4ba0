"""Token scores of generations that a sidecar recorded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from monitor.audit import AuditStore, PageKey, in_sample
from monitor.calibration.generation import Generation
from monitor.calibration.report import Data
from monitor.cli.calibration.computed import Computed
from monitor.cli.calibration.subject import Subject
from monitor.cli.calibration.texts import data_name
from monitor.errors import FeaturewatchError
from monitor.policy.score_trace import ScoreTrace
from monitor.sidecar.plan import model_name, serving_config
from monitor.sidecar.provenance import provenance_of
from monitor.v1.engine_pb2 import EngineInfo
from monitor.v1.generations_pb2 import GenerationRecord

_PAGE = 500


@dataclass
class Records:
    """Attributes:

    whole: generations that have ended, were seen from their first to their last token, and were judged by the very
        detectors of the policy.
    engine: that computed them.
    left_out: why, and how many others there are.
    """

    whole: list[GenerationRecord]
    engine: EngineInfo
    left_out: Counter[str] = field(default_factory=Counter)


def run_records(subject: Subject, store: Path, keep_share: float | None) -> tuple[Computed, Data]:
    """Recorded traffic, all of it taken as benign.

    Args:
        keep_share: of a sidecar that recorded a sample; generations outside of it are then left out, because they are
            there for having been flagged. None takes what there is.

    Raises:
        FeaturewatchError: see `read_records`.
    """
    found = read_records(subject, store, keep_share)
    notes = ["Recorded traffic counts as benign, unread: harmful requests among it make thresholds stricter."]
    if keep_share is None:
        notes.append(
            "A store holds what was flagged, and ordinary traffic only if its sidecar ran with --keep-share. Give "
            "--keep-share here too: without it flagged generations weigh more than in traffic, and thresholds come out "
            "too high."
        )
    chosen = "" if keep_share is None else f" (a sample of {keep_share:.4g})"
    generations = [generation_of(record, False, record.summary.model, "") for record in found.whole]
    engine = f"recorded by vLLM {found.engine.version}"
    computed = Computed(generations, engine, serving_of(found.engine), tuple(notes), {})
    return computed, Data(data_name([store], chosen), None, dict(found.left_out))


def read_records(subject: Subject, store: Path, keep_share: float | None = None) -> Records:
    """What a store holds for a policy.

    Raises:
        FeaturewatchError: there is no such store, it holds nothing usable, or records of several engine configurations.
    """
    wanted = {detector.name for detector in subject.compiled.detectors}
    sources = {
        (entry.kind, entry.name, entry.sha256)
        for entry in provenance_of(subject.compiled, subject.sources)
        if entry.kind != "policy"
    }
    left_out: Counter[str] = Counter()
    whole: list[GenerationRecord] = []
    engines: dict[bytes, EngineInfo] = {}
    for record in _records(store):
        if keep_share is not None and not in_sample(record.summary.generation_id, keep_share):
            left_out["not of the sample"] += 1
        elif not record.summary.end_unix_nanos:
            left_out["not ended"] += 1
        elif not wanted <= set(record.score_columns):
            left_out["not judged by this policy"] += 1
        elif not sources <= {(entry.kind, entry.name, entry.sha256) for entry in record.provenance}:
            left_out["judged with another SAE or probe"] += 1
        elif record.summary.coverage.observed < record.summary.coverage.positions:
            left_out["with unseen tokens (prefix cache, or dropped)"] += 1
        elif record.notes:
            left_out["with irregularities that the record notes"] += 1
        else:
            whole.append(record)
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
    return Records(whole, next(iter(engines.values())), left_out)


def generation_of(record: GenerationRecord, is_harmful: bool, source: str, category: str) -> Generation:
    """A record's token scores."""
    scores_pd = np.array([token.token_scores for token in record.tokens], np.float64)
    scores_pd = scores_pd.reshape(len(record.tokens), len(record.score_columns))
    phases_p = np.array([token.phase for token in record.tokens], np.uint8)
    scores = {name: scores_pd[:, d] for d, name in enumerate(record.score_columns)}
    return Generation(record.summary.generation_id, ScoreTrace(scores, phases_p), is_harmful, source, category)


def serving_of(engine: EngineInfo) -> dict[str, str]:
    """As the keys of `fittedOn` state it: of the model the last part of its name."""
    serving = serving_config(engine)
    return serving | {"model": serving["model"].rstrip("/").rpartition("/")[2]}


def _records(store: Path) -> Iterator[GenerationRecord]:
    audit = AuditStore(store, read_only=True)
    try:
        before: PageKey | None = None
        while page := audit.page(_PAGE, before):
            for summary in page:
                record = audit.get(summary.generation_id)
                if record is not None:
                    yield record
            before = PageKey.of(page[-1])
    finally:
        audit.close()


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
