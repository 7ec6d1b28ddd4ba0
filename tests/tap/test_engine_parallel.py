"""Engines of several workers, and adapters: one tap per replica, every row right and under its request."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from support.comparison import check_all, check_request, mixed_requests
from support.engine import EngineProcess
from support.glassllm import WIDTH, glassllm_folder
from support.lora import lora_adapter
from support.recording_sidecar import RecordingSidecar, identity_plan
from support.reference import Reference

pytestmark = pytest.mark.engine

HOOK_POINTS = ["resid_post.1", "resid_post.3"]


@contextmanager
def served(folder: Path, **args: Any) -> Iterator[tuple[EngineProcess, RecordingSidecar]]:
    target = f"unix:{folder}/s.sock"
    sidecar = RecordingSidecar(target, identity_plan(HOOK_POINTS, WIDTH))
    config = {"sidecar": target, "hook_points": HOOK_POINTS}
    try:
        with EngineProcess(folder / "log", config, max_num_batched_tokens=64, **args) as engine:
            engine.wait_ready()
            yield engine, sidecar
    finally:
        sidecar.stop()


@pytest.mark.parametrize(
    ("args", "taps"),
    [({"tensor_parallel_size": 2}, 1), ({"data_parallel_size": 2}, 2)],
    ids=["tensor parallel", "data parallel"],
)
def test_every_row_of_a_mixed_batch_equals_hugging_face(args: dict[str, int], taps: int, tmp_path: Path) -> None:
    requests = mixed_requests(seed=7, count=10)
    with served(tmp_path, **args) as (engine, sidecar):
        outputs = engine.run(requests)
        sidecar.wait_for(lambda seen: seen.ended([request["id"] for request in requests]), "ends")
    check_all(sidecar, requests, outputs, Reference(glassllm_folder()))
    assert len({hello.tap_id for hello in sidecar.hellos}) == taps
    assert {hello.engine.data_parallel_rank for hello in sidecar.hellos} == set(range(taps))
    assert {tap for tap, _ in sidecar.requests} == {hello.tap_id for hello in sidecar.hellos}, (
        "a replica served nothing"
    )


def test_rows_under_a_lora_adapter_are_those_of_the_adapted_model(tmp_path: Path) -> None:
    adapter, merged = lora_adapter(tmp_path)
    prompt = list(range(100, 150))
    plain = {"id": "plain", "prompt": prompt, "max_tokens": 8}
    adapted = {"id": "adapted", "prompt": prompt, "max_tokens": 8, "lora": str(adapter)}
    with served(tmp_path, enable_lora=True, max_lora_rank=8) as (engine, sidecar):
        # One after the other: in one batch vLLM 0.32's CPU engine computes and answers both with the adapter.
        outputs = engine.run([plain]) | engine.run([adapted])
        sidecar.wait_for(lambda seen: seen.ended(["plain", "adapted"]), "ends")
    ((one,), (other,)) = sidecar.named("plain"), sidecar.named("adapted")
    assert (one.begin.adapter, other.begin.adapter) == ("", "adapter")
    check_request(one, prompt, outputs["plain"][0], Reference(glassllm_folder()))
    check_request(other, prompt, outputs["adapted"][0], Reference(merged))
