"""vLLM's V2 model runner: the real engine on a CPU, its Triton kernels run by Triton's interpreter, under random
schedules, without and with n-gram speculative decoding."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from support.comparison import check_played
from support.glassllm import WIDTH, glassllm_folder
from support.interpreted_triton import ENVIRONMENT
from support.reference import Reference
from support.schedules import Schedule, schedules
from support.stepped_engine import SteppedEngines

pytestmark = pytest.mark.engine

HOOK_POINTS = ["resid_post.0", "resid_post.3"]
NGRAM = {"method": "ngram", "num_speculative_tokens": 3, "prompt_lookup_max": 3, "prompt_lookup_min": 1}
TINY = {
    "max_model_len": 320,
    "max_num_batched_tokens": 64,
    "max_num_seqs": 16,
    "block_size": 32,
    "num_gpu_blocks_override": 12,
}


@pytest.fixture(scope="module")
def v2_engines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SteppedEngines]:
    folder = tmp_path_factory.mktemp("v2")
    with SteppedEngines(folder, {"VLLM_CACHE_ROOT": str(folder / "cache"), **ENVIRONMENT}) as opener:
        yield opener


@pytest.mark.parametrize("drafting", [None, NGRAM], ids=["plain", "ngram"])
def test_any_schedule_is_reported_as_it_was_computed(
    drafting: dict[str, Any] | None, v2_engines: SteppedEngines, tmp_path: Path
) -> None:
    reference, seen = Reference(glassllm_folder()), Counter[str]()
    with v2_engines.tapped(tmp_path, HOOK_POINTS, WIDTH, speculative_config=drafting, **TINY) as (engine, sidecar):
        assert sidecar.hellos[0].engine.runner == "v2"

        @settings(
            max_examples=4 if drafting else 6,
            deadline=None,
            print_blob=True,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.large_base_example],
        )
        @given(schedule=schedules(repeating=drafting is not None))
        def any_schedule(schedule: Schedule) -> None:
            sidecar.forget()
            played = engine.play(schedule.events(), schedule.seed)
            check_played(sidecar, played, reference, tails=False)
            for traced in played.requests.values():
                seen["rows"] += sum(traced.passed)
                seen["from the cache"] += traced.passed.count(False)
                seen["recomputed"] += sum(rows - rejected for _, rows, rejected in traced.steps) - sum(traced.passed)
                seen["rejected"] += sum(rejected for _, _, rejected in traced.steps)

        any_schedule()
    print(f"\nschedules: {dict(seen)}")
    for event in ("rows", "from the cache", "recomputed", *(["rejected"] if drafting else [])):
        assert seen[event] > 0, f"no schedule had {event}: {dict(seen)}"
