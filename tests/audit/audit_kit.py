"""Records of generations for tests of the store."""

from __future__ import annotations

import numpy as np

from monitor.audit import Transcript, build_record
from monitor.v1.alerts_pb2 import Alert, Mode
from monitor.v1.engine_pb2 import EngineInfo
from monitor.v1.generations_pb2 import CoverageGap, GenerationRecord, GenerationSummary, Provenance


def summary(number: int, **changes: object) -> GenerationSummary:
    values = {
        "generation_id": f"gen-{number:03d}",
        "request_id": f"chatcmpl-{number:03d}-0a1b2c3d",
        "external_id": f"chatcmpl-{number:03d}",
        "model": "tiny",
        "start_unix_nanos": 1_700_000_000_000_000_000 + number // 2,
        "fired": ["loud/LOUD-001"],
        "mode": Mode.MODE_ALERT,
        **changes,
    }
    return GenerationSummary(**values)  # type: ignore[arg-type]


def record(number: int = 1, **changes: object) -> GenerationRecord:
    scores = np.array([[np.nan, 0.5], [1.5, -2.0]], np.float32)
    transcript = Transcript(
        token_ids_p=np.array([7, -1], np.int32),
        phases_p=np.array([1, 3], np.uint8),
        observed_p=np.array([True, False]),
        scores_pd=scores,
        token_scores_pd=scores + 1,
        texts=["boom", ""],
    )
    return build_record(
        summary(number, **changes),
        transcript,
        score_columns=["loud/dense", "loud/latents"],
        alerts=[Alert(alert_id="a")],
        engine=EngineInfo(name="vllm", version="0.32.0"),
        provenance=[Provenance(kind="sae", name="tiny/resid_post.3", sha256="ab" * 32)],
        gaps=[CoverageGap(first_position=1, count=1, reason="dropped: queue full")],
        notes=["a note"],
        sidecar_version="0.1.0",
    )
