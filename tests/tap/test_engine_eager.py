"""The tap in a real eager vLLM, against Hugging Face, and through the sidecar's absence."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import numpy as np
import pytest
from support.comparison import TOLERANCE, check_all, check_request, mixed_requests
from support.engine import EngineProcess
from support.glassllm import WIDTH, glassllm_folder
from support.recording_sidecar import RecordingSidecar, identity_plan
from support.reference import Reference, relative_error

from monitor.tap.record import PREFIX_CACHE, SIDECAR_LOST

pytestmark = pytest.mark.engine

HOOK_POINTS = ["resid_post.0", "resid_post.2", "resid_post.3"]
KV_BLOCK = 32


@pytest.fixture(scope="module")
def reference() -> Reference:
    return Reference(glassllm_folder())


@pytest.fixture(scope="module")
def socket(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"unix:{tmp_path_factory.mktemp('tap')}/s.sock"


@pytest.fixture(scope="module")
def engine(socket: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineProcess]:
    """Chunks of 64 tokens and a KV cache of 22 blocks, so that prompts are cut and requests preempted. It starts
    before any sidecar."""
    with EngineProcess(
        tmp_path_factory.mktemp("engine") / "log",
        {"sidecar": socket, "hook_points": HOOK_POINTS},
        max_num_batched_tokens=64,
        max_num_seqs=16,
        block_size=KV_BLOCK,
        num_gpu_blocks_override=22,
    ) as process:
        process.wait_ready()
        yield process


@pytest.fixture
def sidecar(engine: EngineProcess, socket: str) -> Iterator[RecordingSidecar]:
    recorder = start_sidecar(engine, socket)
    yield recorder
    recorder.stop()


def start_sidecar(engine: EngineProcess, socket: str) -> RecordingSidecar:
    """A new sidecar process, as the tap sees it, whose watch plan is in force when this returns."""
    recorder = RecordingSidecar(socket, identity_plan(HOOK_POINTS, WIDTH))
    for _ in range(50):
        name = f"warm-{uuid.uuid4().hex}"
        engine.run([{"id": name, "prompt": [5], "max_tokens": 1}])
        recorder.wait_for(lambda seen, name=name: seen.ended([name]), name)
        if recorder.named(name)[0].observed:
            return recorder
    raise AssertionError(f"the watch plan never came into force: {recorder.summary()}")


def test_requests_during_the_sidecars_absence_are_served_and_reported_afterwards(
    engine: EngineProcess, socket: str
) -> None:
    requests = mixed_requests(seed=1, count=6)
    outputs = engine.run(requests)
    assert [len(outputs[request["id"]][0]) for request in requests if "abort_after" not in request] == [
        request["max_tokens"] for request in requests if "abort_after" not in request
    ]
    recorder = start_sidecar(engine, socket)
    try:
        recorder.wait_for(lambda seen: seen.ended([request["id"] for request in requests]), "requests of the outage")
        assert recorder.breaches == []
        for request in requests:
            for recorded in recorder.named(request["id"]):
                assert recorded.observed == 0
                assert sum(count for _, count, _ in recorded.gaps) == recorded.end.positions > 0
    finally:
        recorder.stop()


def test_every_row_of_a_mixed_batch_equals_hugging_face(
    engine: EngineProcess, sidecar: RecordingSidecar, reference: Reference
) -> None:
    requests = mixed_requests(seed=2, count=24)
    outputs = engine.run(requests)
    sidecar.wait_for(lambda seen: seen.ended([request["id"] for request in requests]), "ends")
    print(f"\neager: largest relative error {check_all(sidecar, requests, outputs, reference):.1e}")
    assert engine.preemptions > 0, "the KV cache was meant to be too small for this batch"
    assert {reason for recorded in sidecar.requests.values() for _, _, reason in recorded.gaps} <= {PREFIX_CACHE}
    rows = sum(recorded.observed for recorded in sidecar.requests.values())
    assert rows > 24 * 10


def test_the_flight_recorder_holds_a_request_while_it_runs_and_after_its_end(
    engine: EngineProcess, sidecar: RecordingSidecar, reference: Reference
) -> None:
    prompt = list(range(300, 400))
    engine.start(
        [{"id": "watched", "prompt": prompt, "max_tokens": 60}, {"id": "other", "prompt": [7], "max_tokens": 90}]
    )
    sidecar.wait_for(lambda seen: any(r.observed > 70 for r in seen.named("watched")), "traffic")
    handle = sidecar.named("watched")[0].begin.handle
    followed = sidecar.capture(handle, follow=True)
    outputs = engine.results()
    sidecar.wait_for(lambda seen: followed.done and seen.ended(["watched", "other"]), "ends")
    finished = sidecar.capture(handle)
    sidecar.wait_for(lambda seen: finished.done, "the finished request's rows")
    expected_lnd = reference.residuals([*prompt, *outputs["watched"][0][:-1]])
    for capture in (followed, finished):
        assert sorted(capture.rows) == HOOK_POINTS
        for hook_point, rows in capture.rows.items():
            assert list(rows) == list(range(159)), "not every position from the first on"
            layer = int(hook_point.removeprefix("resid_post."))
            assert relative_error(np.stack(list(rows.values())), expected_lnd[layer]) <= TOLERANCE
    assert sidecar.breaches == []


def test_a_repeated_prompt_has_a_prefix_cache_gap(
    engine: EngineProcess, sidecar: RecordingSidecar, reference: Reference
) -> None:
    prompt = list(range(100, 170))
    for name in ("first", "again"):
        request = {"id": name, "prompt": prompt, "max_tokens": 4}
        outputs = engine.run([request])
        sidecar.wait_for(lambda seen, name=name: seen.ended([name]), name)
        check_request(sidecar.named(name)[0], prompt, outputs[name][0], reference)
    (first,), (again,) = sidecar.named("first"), sidecar.named("again")
    assert first.gaps == []
    assert again.gaps == [(0, 2 * KV_BLOCK, PREFIX_CACHE)]
    assert again.observed == again.end.positions - 2 * KV_BLOCK


def test_the_tap_says_who_it_is_and_that_its_hooks_fire(engine: EngineProcess, sidecar: RecordingSidecar) -> None:
    sidecar.wait_for(lambda seen: len(seen.heartbeats) >= 2, "two heartbeats")
    hello, heartbeat = sidecar.hellos[0], sidecar.heartbeats[-1]
    assert list(hello.hook_points) == HOOK_POINTS
    assert (hello.engine.name, hello.engine.execution, hello.engine.runner) == ("vllm", "eager", "v1")
    assert (hello.engine.num_layers, hello.engine.hidden_size, hello.engine.dtype) == (4, WIDTH, "float32")
    memory = hello.memory
    assert 0 < memory.recorder_rows * len(HOOK_POINTS) * WIDTH * 4 <= memory.recorder_bytes <= 64 << 20
    assert (memory.buffer_bytes, memory.queue_bytes) == (len(HOOK_POINTS) * 64 * WIDTH * 4, 64 << 20)
    assert heartbeat.steps == heartbeat.steps_fired > 0
    assert heartbeat.errors == 0
    assert engine.changes_on_runner()[:4] == ["_model_forward", "execute_model", "sample_tokens", "shutdown"]


def test_a_killed_sidecar_costs_no_request_and_its_successor_goes_on_judging(
    engine: EngineProcess, socket: str, reference: Reference
) -> None:
    requests = [
        {"id": f"long-{index}", "prompt": list(range(200 + 9 * index, 209 + 9 * index)), "max_tokens": 300}
        for index in range(2)
    ]
    names = [request["id"] for request in requests]
    killed = start_sidecar(engine, socket)
    engine.start(requests)
    killed.wait_for(lambda seen: all(any(r.observed > 40 for r in seen.named(n)) for n in names), "traffic")
    killed.stop()
    successor = RecordingSidecar(socket, identity_plan(HOOK_POINTS, WIDTH, version=7))
    try:
        outputs = engine.results()
        successor.wait_for(lambda seen: seen.ended(names), "ends")
        assert successor.breaches == []
        assert successor.hellos[0].last_session_id == killed.session_id
        for request in requests:
            (recorded,) = successor.named(request["id"])
            assert len(outputs[request["id"]][0]) == 300
            assert recorded.begin.resumed
            assert recorded.gap_positions(SIDECAR_LOST) > 0
            assert recorded.gaps[0][0] == 0
            assert recorded.observed > 0, "judging did not resume"
            check_request(recorded, request["prompt"], outputs[request["id"]][0], reference)
    finally:
        successor.stop()
