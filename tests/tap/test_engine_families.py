"""The residual stream of decoder families: the right tensor, of the right layer, or a refusal."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support.comparison import check_no_other_layer, check_played
from support.engine import engine_args
from support.reference import Reference
from support.stepped_engine import SteppedEngines
from support.tiny_models import LAYERS, WIDTH, tiny_model

pytestmark = pytest.mark.engine

HOOK_POINTS = [f"resid_post.{layer}" for layer in range(LAYERS)]


@pytest.mark.parametrize(
    "family",
    [
        "llama",
        "mistral",
        "mixtral",
        "qwen2",
        "qwen3",
        "qwen3_moe",
        "gemma2",
        "gemma3",
        "phi",
        "phi3",
        "gpt2",
        "gpt_neox",
        "opt",
        "olmo2",
        "granite",
        "falcon",
    ],
)
def test_every_layers_rows_equal_hugging_face(family: str, engines: SteppedEngines, tmp_path: Path) -> None:
    folder = tiny_model(family, tmp_path)
    reference = Reference(folder)
    prompts = {name: np.random.default_rng(seed).integers(4, 1000, 40).tolist() for seed, name in enumerate("ab")}
    arrivals = [{"add": {"id": name, "prompt": prompt, "max_tokens": 8}} for name, prompt in prompts.items()]
    # The second one arrives while the first one decodes.
    events = [arrivals[0], {"steps": 3}, arrivals[1]]
    with engines.tapped(tmp_path, HOOK_POINTS, WIDTH, model=str(folder)) as (engine, sidecar):
        played = engine.play(events)
        worst = check_played(sidecar, played, reference)
        for name in prompts:
            (recorded,) = sidecar.named(name)
            assert recorded.observed == recorded.end.positions == 47
            assert list(recorded.rows) == HOOK_POINTS
            check_no_other_layer(recorded, played.completions(name)[0].sequence, reference)
    print(f"\n{family}: largest relative error {worst:.1e}")


@pytest.mark.parametrize("family", ["cohere", "stablelm"])
def test_families_whose_stream_cannot_be_told_refuse_to_start(
    family: str, engines: SteppedEngines, tmp_path: Path
) -> None:
    folder = tiny_model(family, tmp_path)
    config = {"sidecar": f"unix:{tmp_path}/s.sock", "hook_points": ["resid_post.1"]}
    refusal = engines.refusal(engine_args(config, model=str(folder)))
    assert "FeaturewatchError: resid_post.1 of a model with layers" in refusal
    assert "hand on two tensors and no norm" in refusal
