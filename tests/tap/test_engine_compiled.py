"""The tap under torch.compile, next to a plain engine that shares its compile cache; and a refused start."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.comparison import check_all, mixed_requests
from support.engine import EngineDied, EngineProcess
from support.glassllm import WIDTH, glassllm_folder
from support.recording_sidecar import RecordingSidecar, identity_plan
from support.reference import Reference

pytestmark = pytest.mark.engine

HOOK_POINTS = ["resid_post.1", "resid_post.3"]
GREEDY = [{"id": f"greedy-{n}", "prompt": list(range(10, 10 + n)), "max_tokens": 8} for n in (3, 30, 90)]


def test_compiled_graphs_fire_and_a_plain_engines_compile_cache_is_not_mistaken_for_a_tapped_ones(
    tmp_path: Path,
) -> None:
    """The plain engine fills the cache; the tap is configured by environment: only its salt tells them apart."""
    cache = {"VLLM_CACHE_ROOT": str(tmp_path / "cache")}
    with EngineProcess(tmp_path / "plain.log", None, cache, max_num_batched_tokens=64, enforce_eager=False) as plain:
        plain.wait_ready()
        assert plain.changes_on_runner() == []
        expected = plain.run(GREEDY)
        plain.stop()

    socket = f"unix:{tmp_path}/s.sock"
    sidecar = RecordingSidecar(socket, identity_plan(HOOK_POINTS, WIDTH))
    settings = {"FEATUREWATCH_SIDECAR": socket, "FEATUREWATCH_HOOK_POINTS": ",".join(HOOK_POINTS)}
    with EngineProcess(
        tmp_path / "tapped.log", None, cache | settings, max_num_batched_tokens=64, enforce_eager=False
    ) as tapped:
        tapped.wait_ready()
        outputs = tapped.run(GREEDY)
        assert outputs == expected
        mixed = mixed_requests(seed=3, count=12)
        outputs |= tapped.run(mixed)
        requests = [*GREEDY, *mixed]
        sidecar.wait_for(lambda seen: seen.ended([request["id"] for request in requests]), "ends")
        tapped.stop()
    sidecar.stop()
    assert sidecar.hellos[0].engine.execution == "compiled"
    worst = check_all(sidecar, requests, outputs, Reference(glassllm_folder()))
    print(f"\ncompiled: largest relative error {worst:.1e}")
    assert all(recorded.observed == recorded.end.positions for recorded in sidecar.requests.values())
    assert sidecar.heartbeats[-1].steps == sidecar.heartbeats[-1].steps_fired > 0


def test_a_hook_point_that_the_model_lacks_refuses_the_start(tmp_path: Path) -> None:
    with (
        EngineProcess(
            tmp_path / "log", {"sidecar": f"unix:{tmp_path}/s.sock", "hook_points": ["resid_post.4"]}
        ) as engine,
        pytest.raises(EngineDied),
    ):
        engine.wait_ready()
    log = engine.log.read_text()
    assert "FeaturewatchError: hook point 'resid_post.4': model" in log
    assert "has layers 0 to 3. Choose a hook point from resid_post.0 to resid_post.3." in log
