"""Records of a sidecar's store, for the tests of `policy calibrate --records`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from monitor.audit import AuditStore, Transcript, build_record
from monitor.cli.calibration.subject import read_subject
from monitor.policy import Phase
from monitor.sae import DenseProbe, HookPoint, save_dense_probe
from monitor.sidecar.provenance import provenance_of
from monitor.v1.coverage_pb2 import Coverage
from monitor.v1.engine_pb2 import EngineInfo
from monitor.v1.generations_pb2 import GenerationRecord, GenerationSummary, Provenance

POLICY = """\
apiVersion: monitor/v1
kind: Policy
metadata: {name: toy, revision: 1}
spec:
  mode: off
  fittedOn: {dtype: bfloat16, vllm: "0.32"}
  detectors:
    - id: d
      source: {denseProbe: {file: weights/d.safetensors}}
      aggregate: {kind: max, minTokens: 2}
      threshold: {fire: 99, warn: 98}  # not yet
  rules:
    - {id: R1, when: d.fire, severity: high}
"""
ENGINE = EngineInfo(
    name="vllm",
    version="0.32.0",
    model="models/Tiny",
    dtype="float32",
    quantization="none",
    kv_cache_dtype="auto",
    num_layers=4,
    hidden_size=8,
)
Edit = Callable[[GenerationRecord], None]


def write_policy(folder: Path, text: str = POLICY) -> Path:
    """The policy with the probe that it names."""
    save_dense_probe(DenseProbe(HookPoint(1), np.ones(8, np.float32), 0.0), folder / "weights" / "d.safetensors")
    file = folder / "toy.yaml"
    file.write_text(text)
    return file


def nothing(_: GenerationRecord) -> None:
    """Leaves a record as it is."""


def record(number: int, peak: float, provenance: list[Provenance], edit: Edit = nothing) -> GenerationRecord:
    """Of three tokens of a prompt, of which the last scores highest, and one of the response that nothing judged."""
    scores = np.array([[9.0], [peak - 1], [peak], [np.nan]], np.float32)
    scores[0] = peak - 2
    transcript = Transcript(
        token_ids_p=np.arange(4, dtype=np.int32),
        phases_p=np.array([Phase.PROMPT] * 3 + [Phase.RESPONSE], np.uint8),
        observed_p=np.array([True, True, True, False]),
        scores_pd=scores,
        token_scores_pd=scores,
        texts=None,
    )
    summary = GenerationSummary(
        generation_id=f"generation-{number}",
        request_id=f"r{number}",
        model="Tiny",
        start_unix_nanos=1000 + number,
        end_unix_nanos=2000 + number,
        prompt_tokens=3,
        output_tokens=1,
        coverage=Coverage(positions=3, observed=3),
    )
    made = build_record(
        summary,
        transcript,
        score_columns=["toy/d"],
        alerts=[],
        engine=ENGINE,
        provenance=provenance,
        gaps=[],
        notes=[],
        sidecar_version="test",
    )
    edit(made)
    return made


def flagged(made: GenerationRecord) -> None:
    """As if a rule had fired on it."""
    made.summary.fired.append("toy/R1")


def provenance_for(policy_file: Path) -> list[Provenance]:
    """What a record names that was judged with this policy."""
    subject = read_subject(policy_file, ())
    return list(provenance_of(subject.compiled, subject.sources))


def write_store(policy_file: Path, records: list[GenerationRecord]) -> Path:
    """Beside the policy."""
    path = policy_file.parent / "audit.sqlite"
    store = AuditStore(path)
    for one in records:
        store.put(one)
    store.close()
    return path


def calibrate(policy_file: Path, store: Path, *more: str, share: str = "1") -> list[str]:
    """The words of the command."""
    return ["policy", "calibrate", str(policy_file), "--records", str(store), "--keep-share", share, *more]
