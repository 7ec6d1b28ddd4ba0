"""The residual stream of other decoder families than Llama: the right tensor, of the right layer, or a refusal."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support.comparison import check_request
from support.engine import EngineDied, EngineProcess
from support.recording_sidecar import RecordingSidecar, identity_plan
from support.reference import Reference
from support.tiny_models import LAYERS, WIDTH, tiny_model

pytestmark = pytest.mark.engine

HOOK_POINTS = [f"resid_post.{layer}" for layer in range(LAYERS)]


@pytest.mark.parametrize("family", ["gpt2", "opt", "phi", "qwen3", "gemma2", "phi3", "mixtral"])
def test_every_layers_rows_equal_hugging_face(family: str, tmp_path: Path) -> None:
    folder, target = tiny_model(family, tmp_path), f"unix:{tmp_path}/s.sock"
    reference = Reference(folder)
    recorder = RecordingSidecar(target, identity_plan(HOOK_POINTS, WIDTH))
    prompts = {name: np.random.default_rng(seed).integers(4, 1000, 40).tolist() for seed, name in enumerate("ab")}
    requests = [{"id": name, "prompt": prompt, "max_tokens": 8} for name, prompt in prompts.items()]
    try:
        with EngineProcess(
            tmp_path / "log", {"sidecar": target, "hook_points": HOOK_POINTS}, model=str(folder)
        ) as engine:
            engine.wait_ready()
            for attempt in range(50):
                # Until the watch plan is in force.
                engine.run([{"id": f"warm{attempt}", "prompt": [5], "max_tokens": 1}])
                recorder.wait_for(lambda seen, name=f"warm{attempt}": seen.ended([name]), "warm-up")
                if recorder.named(f"warm{attempt}")[0].observed:
                    break
            outputs = engine.run(requests)
            recorder.wait_for(lambda seen: seen.ended(list(prompts)), "ends")
        for request in requests:
            (recorded,) = recorder.named(request["id"])
            assert recorded.observed == recorded.end.positions
            check_request(recorded, request["prompt"], outputs[request["id"]][0], reference)
    finally:
        recorder.stop()


def test_the_reference_tells_the_layers_apart(tmp_path: Path) -> None:
    """Else rows that are one layer off would pass for right."""
    for family in ("gpt2", "gemma2"):
        rows_lnd = Reference(tiny_model(family, tmp_path)).residuals(list(range(10, 30)))
        for layer in range(1, LAYERS):
            change_n = np.linalg.norm(rows_lnd[layer] - rows_lnd[layer - 1], axis=-1)
            assert (change_n > 0.01 * np.linalg.norm(rows_lnd[layer], axis=-1)).all()


@pytest.mark.parametrize("family", ["cohere", "stablelm"])
def test_families_whose_stream_cannot_be_told_refuse_to_start(family: str, tmp_path: Path) -> None:
    folder = tiny_model(family, tmp_path)
    config = {"sidecar": f"unix:{tmp_path}/s.sock", "hook_points": ["resid_post.1"]}
    with (
        EngineProcess(tmp_path / "log", config, model=str(folder)) as engine,
        pytest.raises(EngineDied),
    ):
        engine.wait_ready()
    assert "hand on two tensors and no norm" in (tmp_path / "log").read_text()
