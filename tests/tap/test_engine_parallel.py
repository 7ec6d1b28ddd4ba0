"""Engines of several workers, and adapters: one tap per replica, every row right and under its request."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from support.comparison import check_all, check_played, mixed_requests
from support.engine import EngineProcess
from support.glassllm import WIDTH, glassllm_folder
from support.lora import lora_adapter
from support.recording_sidecar import RecordingSidecar, identity_plan
from support.reference import Reference
from support.schedules import all_at_once
from support.stepped_engine import SteppedEngines

pytestmark = pytest.mark.engine

HOOK_POINTS = ["resid_post.1", "resid_post.3"]


def test_tensor_parallel_rows_equal_hugging_face_and_rank_0_alone_taps(engines: SteppedEngines, tmp_path: Path) -> None:
    requests = mixed_requests(seed=7, count=10)
    requests[0]["cache_salt"] = "pepper"
    with engines.tapped(tmp_path, HOOK_POINTS, WIDTH, max_num_batched_tokens=64, tensor_parallel_size=2) as (
        engine,
        sidecar,
    ):
        check_played(sidecar, engine.play(all_at_once(requests)), Reference(glassllm_folder()))
    (hello,) = sidecar.hellos
    assert hello.engine.tensor_parallel_rank == 0
    assert hello.engine.prefix_block_size == 128, "the CPU engine's"
    salts = {name: sidecar.named(name)[0].begin.cache_salt_sha256 for name in (requests[0]["id"], requests[4]["id"])}
    assert salts == {requests[0]["id"]: hashlib.sha256(b"pepper").digest(), requests[4]["id"]: b""}


def test_data_parallel_rows_equal_hugging_face_and_every_replica_taps(tmp_path: Path) -> None:
    requests = mixed_requests(seed=7, count=10)
    target = f"unix:{tmp_path}/s.sock"
    sidecar = RecordingSidecar(target, identity_plan(HOOK_POINTS, WIDTH))
    config = {"sidecar": target, "hook_points": HOOK_POINTS}
    try:
        with EngineProcess(tmp_path / "log", config, max_num_batched_tokens=64, data_parallel_size=2) as engine:
            engine.wait_ready()
            outputs = engine.run(requests)
            sidecar.wait_for(lambda seen: seen.ended([request["id"] for request in requests]), "ends")
    finally:
        sidecar.stop()
    check_all(sidecar, requests, outputs, Reference(glassllm_folder()))
    assert len({hello.tap_id for hello in sidecar.hellos}) == 2
    assert {hello.engine.data_parallel_rank for hello in sidecar.hellos} == {0, 1}
    assert {tap for tap, _ in sidecar.requests} == {hello.tap_id for hello in sidecar.hellos}, (
        "a replica served nothing"
    )


def test_rows_under_a_lora_adapter_are_those_of_the_adapted_model(engines: SteppedEngines, tmp_path: Path) -> None:
    adapter, merged = lora_adapter(tmp_path)
    plain = {"id": "plain", "prompt": list(range(100, 150)), "max_tokens": 8}
    adapted = {**plain, "id": "adapted", "lora": str(adapter)}
    with engines.tapped(tmp_path, HOOK_POINTS, WIDTH, enable_lora=True, max_lora_rank=8) as (engine, sidecar):
        # One after the other: in one batch vLLM 0.32's CPU engine computes and answers both with the adapter.
        check_played(sidecar, engine.play([{"add": plain}]), Reference(glassllm_folder()))
        assert sidecar.named("plain")[0].begin.adapter == ""
        sidecar.forget()
        check_played(sidecar, engine.play([{"add": adapted}]), Reference(merged))
        assert sidecar.named("adapted")[0].begin.adapter == "adapter"
