"""The tap on a real chat model, 30 layers deep, against Hugging Face. `pytest -s` shows the largest error."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.comparison import check_all, check_request, mixed_requests
from support.engine import EngineProcess
from support.recording_sidecar import RecordingSidecar, identity_plan
from support.reference import Reference

from monitor.cli.common import resolve_model

pytestmark = [pytest.mark.engine, pytest.mark.model]

HOOK_POINTS = ["resid_post.10", "resid_post.14"]
WIDTH = 576


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
def test_every_row_of_a_mixed_batch_equals_hugging_face(compiled: bool, tmp_path: Path) -> None:
    model, target = resolve_model("smollm2"), f"unix:{tmp_path}/s.sock"
    sidecar = RecordingSidecar(target, identity_plan(HOOK_POINTS, WIDTH))
    requests = mixed_requests(seed=5, count=12)
    try:
        with EngineProcess(
            tmp_path / "log",
            {"sidecar": target, "hook_points": HOOK_POINTS},
            {"VLLM_CACHE_ROOT": str(tmp_path / "cache")},
            model=model,
            max_num_batched_tokens=128,
            enforce_eager=not compiled,
        ) as engine:
            engine.wait_ready()
            outputs = engine.run(requests)
            sidecar.wait_for(lambda seen: seen.ended([request["id"] for request in requests]), "ends")
        assert sidecar.hellos[0].engine.execution == ("compiled" if compiled else "eager")
        worst = check_all(sidecar, requests, outputs, Reference(model))
    finally:
        sidecar.stop()
    rows = sum(recorded.observed for recorded in sidecar.requests.values())
    print(f"\n{sidecar.hellos[0].engine.execution}: {rows} rows, largest relative error {worst:.1e}")
    assert rows > 12 * 10


def test_a_stop_string_ends_a_request_whose_rows_are_right_up_to_its_end(tmp_path: Path) -> None:
    """The API server finds the string and aborts: the engine may have computed a token more by then."""
    from transformers import AutoTokenizer

    model, target = resolve_model("smollm2"), f"unix:{tmp_path}/s.sock"
    tokenizer = AutoTokenizer.from_pretrained(model)
    prompt = tokenizer("The capital of France is")["input_ids"]
    free = {"id": "free", "prompt": prompt, "max_tokens": 24}
    sidecar = RecordingSidecar(target, identity_plan(HOOK_POINTS, WIDTH))
    try:
        with EngineProcess(
            tmp_path / "log",
            {"sidecar": target, "hook_points": HOOK_POINTS},
            model=model,
            skip_tokenizer_init=False,
        ) as engine:
            engine.wait_ready()
            outputs = engine.run([free])
            word = tokenizer.decode(outputs["free"][0][10:12])
            outputs |= engine.run([free | {"id": "stopped", "stop": [word]}])
            sidecar.wait_for(lambda seen: seen.ended(["free", "stopped"]), "ends")
        stopped = outputs["stopped"][0]
        assert len(stopped) <= 12
        assert stopped == outputs["free"][0][: len(stopped)]
        (recorded,) = sidecar.named("stopped")
        assert len(prompt) + len(stopped) - 1 <= recorded.end.positions <= len(prompt) + len(stopped) + 1
        check_request(recorded, prompt, stopped, Reference(model), aborted=True)
    finally:
        sidecar.stop()
