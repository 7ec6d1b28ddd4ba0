"""The tap on a real chat model, 30 layers deep, against Hugging Face. `pytest -s` shows the largest error."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.comparison import check_all, check_played, check_request, mixed_requests
from support.engine import EngineProcess
from support.recording_sidecar import RecordingSidecar, identity_plan
from support.reference import Reference
from support.schedules import all_at_once
from support.stepped_engine import SteppedEngines

from monitor.cli.common import resolve_model

pytestmark = [pytest.mark.engine, pytest.mark.model]

HOOK_POINTS = ["resid_post.10", "resid_post.14"]
WIDTH = 576


@pytest.fixture(scope="module")
def reference() -> Reference:
    return Reference(resolve_model("smollm2"))


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[EngineProcess, RecordingSidecar]]:
    """An eager engine with a tokenizer, as a server runs it."""
    folder = tmp_path_factory.mktemp("chat")
    target = f"unix:{folder}/s.sock"
    sidecar = RecordingSidecar(target, identity_plan(HOOK_POINTS, WIDTH))
    try:
        with EngineProcess(
            folder / "log",
            {"sidecar": target, "hook_points": HOOK_POINTS},
            model=resolve_model("smollm2"),
            max_num_batched_tokens=128,
            skip_tokenizer_init=False,
        ) as engine:
            engine.wait_ready()
            yield engine, sidecar
    finally:
        sidecar.stop()


def test_every_row_of_a_mixed_batch_equals_hugging_face(
    served: tuple[EngineProcess, RecordingSidecar], reference: Reference
) -> None:
    engine, sidecar = served
    requests = mixed_requests(seed=5, count=12)
    outputs = engine.run(requests)
    sidecar.wait_for(lambda seen: seen.ended([request["id"] for request in requests]), "ends")
    worst = check_all(sidecar, requests, outputs, reference)
    rows = sum(recorded.observed for recorded in sidecar.requests.values())
    print(f"\n{sidecar.hellos[0].engine.execution}: {rows} rows, largest relative error {worst:.1e}")
    assert rows > 12 * 10


def test_every_row_of_a_mixed_batch_equals_hugging_face_when_compiled(
    engines: SteppedEngines, reference: Reference, tmp_path: Path
) -> None:
    args = {"model": resolve_model("smollm2"), "max_num_batched_tokens": 128, "enforce_eager": False}
    with engines.tapped(tmp_path, HOOK_POINTS, WIDTH, **args) as (engine, sidecar):
        worst = check_played(sidecar, engine.play(all_at_once(mixed_requests(seed=5, count=12))), reference)
    rows = sum(recorded.observed for recorded in sidecar.requests.values())
    assert sidecar.hellos[0].engine.execution == "compiled"
    print(f"\ncompiled: {rows} rows, largest relative error {worst:.1e}")
    assert rows > 12 * 10


def test_a_stop_string_ends_a_request_whose_rows_are_right_up_to_its_end(
    served: tuple[EngineProcess, RecordingSidecar], reference: Reference
) -> None:
    """The API server finds the string and aborts: the engine may have computed a token more by then."""
    from transformers import AutoTokenizer

    engine, sidecar = served
    tokenizer = AutoTokenizer.from_pretrained(resolve_model("smollm2"))
    prompt = tokenizer("The capital of France is")["input_ids"]
    free = {"id": "free", "prompt": prompt, "max_tokens": 24}
    outputs = engine.run([free])
    word = tokenizer.decode(outputs["free"][0][10:12])
    outputs |= engine.run([free | {"id": "stopped", "stop": [word]}])
    sidecar.wait_for(lambda seen: seen.ended(["free", "stopped"]), "ends")
    stopped = outputs["stopped"][0]
    assert len(stopped) <= 12
    assert stopped == outputs["free"][0][: len(stopped)]
    (recorded,) = sidecar.named("stopped")
    assert len(prompt) + len(stopped) - 1 <= recorded.end.positions <= len(prompt) + len(stopped) + 1
    check_request(recorded, prompt, stopped, reference, aborted=True)
