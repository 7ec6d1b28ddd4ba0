"""Random schedules on a real engine: whatever clients and scheduler do, every position is reported once, and rightly.

`pytest -s` shows what the schedules ran into. A failing schedule is printed, and shrunk, by hypothesis.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from support.comparison import check_played
from support.glassllm import WIDTH, glassllm_folder
from support.recording_sidecar import RecordingSidecar
from support.reference import Reference
from support.schedules import Schedule, schedules
from support.stepped_engine import Played, SteppedEngine, SteppedEngines, Traced

pytestmark = pytest.mark.engine

HOOK_POINTS = ["resid_post.0", "resid_post.2", "resid_post.3"]
CHUNK, KV_BLOCK, KV_BLOCKS = 64, 32, 12
EXAMPLES = 40


def test_any_schedule_is_reported_as_it_was_computed(engines: SteppedEngines, tmp_path: Path) -> None:
    """Prefill chunks of 64 tokens, and a KV cache of 12 blocks, in which a few requests displace each other."""
    reference, seen = Reference(glassllm_folder()), Counter[str]()
    with engines.tapped(
        tmp_path,
        HOOK_POINTS,
        WIDTH,
        max_model_len=320,
        max_num_batched_tokens=CHUNK,
        max_num_seqs=16,
        block_size=KV_BLOCK,
        num_gpu_blocks_override=KV_BLOCKS,
    ) as (engine, sidecar):
        _try_schedules(engine, sidecar, reference, seen)
    print(f"\nschedules: {dict(seen)}")
    for event in (
        "recomputed positions",
        "positions from the prefix cache",
        "prompts in three chunks",
        "prompts beside decoding requests",
        "aborted while computed",
        "aborted before a step",
        "completions of n > 1",
    ):
        assert seen[event] > 0, f"no schedule had {event}: {dict(seen)}"


def _try_schedules(engine: SteppedEngine, sidecar: RecordingSidecar, reference: Reference, seen: Counter[str]) -> None:
    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        print_blob=True,
        database=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.large_base_example],
    )
    @given(schedule=schedules())
    def any_schedule(schedule: Schedule) -> None:
        sidecar.forget()
        played = engine.play(schedule.events(), schedule.seed)
        check_played(sidecar, played, reference)
        assert len(sidecar.requests) == len(played.requests), "a request that the scheduler does not know"
        _check_clients(schedule, played)
        seen.update(_events(schedule, played))

    any_schedule()


def _check_clients(schedule: Schedule, played: Played) -> None:
    """Every client that stayed got all tokens, and those that the trace holds."""
    for index, arrival in enumerate(schedule.arrivals):
        completions = played.completions(f"r{index}")
        for place, answer in enumerate(played.outputs[f"r{index}"]):
            assert arrival.aborted_after is not None or len(answer) == arrival.max_tokens
            assert not answer or answer == completions[place].sampled[: len(answer)]


def _events(schedule: Schedule, played: Played) -> Counter[str]:
    seen = Counter[str](schedules=1)
    seen["prompts beside decoding requests"] = played.mixed_steps
    for index, arrival in enumerate(schedule.arrivals):
        completions = played.completions(f"r{index}")
        seen["aborted before a step"] += arrival.completions - len(completions)
        seen["completions of n > 1"] += len(completions) * (arrival.completions > 1)
        for traced in completions.values():
            rows, skipped = sum(traced.passed), traced.passed.count(False)
            seen["requests"] += 1
            seen["rows"] += rows
            seen["preemptions"] += traced.resumed
            seen["recomputed positions"] += sum(rows for _, rows, _ in traced.steps) - rows
            seen["positions from the prefix cache"] += skipped
            seen["prompts in three chunks"] += _chunks(traced) >= 3
            seen["aborted while computed"] += len(traced.sampled) < arrival.max_tokens
    return seen


def _chunks(traced: Traced) -> int:
    return sum(first < len(traced.prompt) for first, _, _ in traced.steps)
