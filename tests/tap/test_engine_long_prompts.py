"""Prompts of thousands of tokens, in many chunks, beside short requests, and twice from the prefix cache."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support.comparison import check_played
from support.reference import Reference
from support.stepped_engine import SteppedEngines
from support.tiny_models import LAYERS, WIDTH, tiny_model

from monitor.tap.record import PREFIX_CACHE

pytestmark = pytest.mark.engine

HOOK_POINTS = [f"resid_post.{layer}" for layer in range(LAYERS)]
CHUNK, BLOCK, LONG = 512, 32, 4100


def test_every_row_of_long_prompts_equals_hugging_face(engines: SteppedEngines, tmp_path: Path) -> None:
    folder = tiny_model("llama_long", tmp_path)
    tokens = np.random.default_rng(0).integers(4, 1000, LONG + 100).tolist()
    long = {"id": "long", "prompt": tokens[:LONG], "max_tokens": 6}
    events = [
        {"add": long},
        {"steps": 2},
        {"add": {"id": "short", "prompt": tokens[:40][::-1], "max_tokens": 20}},
        {"add": {"id": "middle", "prompt": tokens[50:1650], "max_tokens": 4, "n": 2, "temperature": 1.0}},
        {"steps": 16},
        # From the cache, but for what is behind token 3,000; and a client that hangs up amid its chunks.
        {"add": {"id": "again", "prompt": tokens[:3000] + tokens[4000:], "max_tokens": 3}},
        {"add": {"id": "gone", "prompt": tokens[100:3100], "max_tokens": 3}},
        {"steps": 3},
        {"abort": "gone"},
    ]
    with engines.tapped(
        tmp_path,
        HOOK_POINTS,
        WIDTH,
        model=str(folder),
        max_model_len=8192,
        max_num_batched_tokens=CHUNK,
        block_size=BLOCK,
    ) as (engine, sidecar):
        played = engine.play(events)
        worst = check_played(sidecar, played, Reference(folder))
        (first,), (again,), (gone,) = sidecar.named("long"), sidecar.named("again"), sidecar.named("gone")
    print(f"\nlong prompts: largest relative error {worst:.1e}")
    assert len(played.completions("long")[0].passes) > LONG // CHUNK
    assert first.observed == LONG + 5
    assert again.gaps == [(0, 3000 // BLOCK * BLOCK, PREFIX_CACHE)]
    assert 0 < gone.observed < 3000
    assert gone.end.positions == gone.observed
