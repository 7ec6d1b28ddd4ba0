"""The tap under torch.compile, after a plain engine that shares its compile cache; and a refused start."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.comparison import check_played, mixed_requests
from support.engine import engine_args
from support.glassllm import WIDTH, glassllm_folder
from support.recording_sidecar import RecordingSidecar, identity_plan
from support.reference import Reference
from support.schedules import all_at_once
from support.stepped_engine import SteppedEngines, warm_up

pytestmark = pytest.mark.engine

HOOK_POINTS = ["resid_post.1", "resid_post.3"]
GREEDY = all_at_once([{"id": f"greedy-{n}", "prompt": list(range(10, 10 + n)), "max_tokens": 8} for n in (3, 30, 90)])


def test_compiled_graphs_fire_and_a_plain_engines_compile_cache_is_not_mistaken_for_a_tapped_ones(
    engines: SteppedEngines, tmp_path: Path
) -> None:
    """The plain engine fills the cache; the tap is configured by environment: only its salt tells them apart.

    vLLM 0.32's CPU engine never reads what it has saved, so that a mistake would not show in the outputs: the names
    under which the graphs are saved must differ.
    """
    cache = {"VLLM_CACHE_ROOT": str(tmp_path / "cache")}
    args = engine_args(None, max_num_batched_tokens=64, enforce_eager=False)
    with engines.opened(args, cache) as plain:
        assert plain.changes_on_runner() == []
        expected = plain.play(GREEDY).outputs

    socket, reference = f"unix:{tmp_path}/s.sock", Reference(glassllm_folder())
    sidecar = RecordingSidecar(socket, identity_plan(HOOK_POINTS, WIDTH))
    settings = {"FEATUREWATCH_SIDECAR": socket, "FEATUREWATCH_HOOK_POINTS": ",".join(HOOK_POINTS)}
    try:
        with engines.opened(args, cache | settings) as tapped:
            warm_up(tapped, sidecar)
            played = tapped.play(GREEDY)
            assert played.outputs == expected
            worst = check_played(sidecar, played, reference)
            mixed = tapped.play(all_at_once(mixed_requests(seed=3, count=12)))
            worst = max(worst, check_played(sidecar, mixed, reference))
    finally:
        sidecar.stop()
    print(f"\ncompiled: largest relative error {worst:.1e}")
    assert sidecar.hellos[0].engine.execution == "compiled"
    assert len(mixed.requests) == 14
    saved = list((tmp_path / "cache" / "torch_compile_cache" / "torch_aot_compile").iterdir())
    assert len(saved) == 2, f"plain and tapped graphs under {[path.name for path in saved]}"
    assert sidecar.heartbeats[-1].steps == sidecar.heartbeats[-1].steps_fired > 0


def test_a_hook_point_that_the_model_lacks_refuses_the_start(engines: SteppedEngines, tmp_path: Path) -> None:
    config = {"sidecar": f"unix:{tmp_path}/s.sock", "hook_points": ["resid_post.4"]}
    refusal = engines.refusal(engine_args(config))
    assert "FeaturewatchError: hook point 'resid_post.4': model" in refusal
    assert "has layers 0 to 3. Choose a hook point from resid_post.0 to resid_post.3." in refusal
