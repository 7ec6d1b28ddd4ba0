"""Random schedules on a real engine: whatever clients and scheduler do, every position is reported once, and rightly.

`pytest -s` shows what the schedules ran into. A failing schedule is printed, and shrunk, by hypothesis.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from support.comparison import check_played
from support.glassllm import WIDTH, glassllm_folder
from support.reference import Reference
from support.schedules import Schedule, schedules
from support.stepped_engine import Played, SteppedEngines

pytestmark = pytest.mark.engine

HOOK_POINTS = ["resid_post.0", "resid_post.2", "resid_post.3"]


# What must have happened in some schedule, or the test has shown nothing.
EVENTS = [
    "recomputed positions",
    "positions from the prefix cache",
    "prompts in three chunks",
    "prompts beside decoding requests",
    "aborted while computed",
    "aborted before a step",
    "completions of n > 1",
    "completions of n > 1 aborted while computed",
]
NGRAM = {"method": "ngram", "num_speculative_tokens": 4, "prompt_lookup_min": 1, "prompt_lookup_max": 3}


def test_any_schedule_is_reported_as_it_was_computed(engines: SteppedEngines, tmp_path: Path) -> None:
    seen = _try_schedules(engines, tmp_path, examples=40)
    for event in EVENTS:
        assert seen[event] > 0, f"no schedule had {event}: {dict(seen)}"
    assert seen["accepted drafts"] == seen["rejected drafts"] == 0


def test_any_schedule_with_drafts_is_reported_without_the_rejected_ones(
    engines: SteppedEngines, tmp_path: Path
) -> None:
    """Prompts repeat short patterns, so that the n-gram proposer finds something, and now and then is right."""
    seen = _try_schedules(engines, tmp_path, examples=30, repeating=True, speculative_config=NGRAM)
    for event in [*EVENTS, "accepted drafts", "rejected drafts", "steps with accepted and rejected drafts"]:
        assert seen[event] > 0, f"no schedule had {event}: {dict(seen)}"


def _try_schedules(
    engines: SteppedEngines, folder: Path, *, examples: int, repeating: bool = False, **args: Any
) -> Counter[str]:
    """Holds random schedules against the engine's own trace and Hugging Face; returns what they ran into."""
    reference, seen = Reference(glassllm_folder()), Counter[str]()
    # Prefill chunks of 64 tokens, and a KV cache in which a few requests displace each other.
    with engines.tapped(
        folder,
        HOOK_POINTS,
        WIDTH,
        max_model_len=320,
        max_num_batched_tokens=64,
        max_num_seqs=16,
        block_size=32,
        num_gpu_blocks_override=12,
        **args,
    ) as (engine, sidecar):

        @settings(
            max_examples=examples,
            deadline=None,
            print_blob=True,
            database=None,
            phases=[Phase.generate, Phase.shrink],
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.large_base_example],
        )
        @given(schedule=schedules(repeating=repeating))
        def any_schedule(schedule: Schedule) -> None:
            sidecar.forget()
            played = engine.play(schedule.events(), schedule.seed)
            check_played(sidecar, played, reference)
            assert len(sidecar.requests) == len(played.requests), "a request that the scheduler does not know"
            _check_clients(schedule, played)
            seen.update(_events(schedule, played))

        any_schedule()
    print(f"\n{dict(seen)}")
    return seen


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
            drafts = sum(share.drafts for share in traced.passes)
            rejected = sum(share.rejected for share in traced.passes)
            chunks = sum(share.first_position < len(traced.prompt) for share in traced.passes)
            seen["requests"] += 1
            seen["rows"] += rows
            seen["preemptions"] += traced.resumed
            seen["recomputed positions"] += sum(share.rows for share in traced.passes) - rejected - rows
            seen["positions from the prefix cache"] += skipped
            seen["prompts in three chunks"] += chunks >= 3
            aborted = len(traced.sampled) < arrival.max_tokens
            seen["aborted while computed"] += aborted
            seen["completions of n > 1 aborted while computed"] += aborted and arrival.completions > 1
            seen["accepted drafts"] += drafts - rejected
            seen["rejected drafts"] += rejected
            seen["steps with accepted and rejected drafts"] += sum(
                0 < share.rejected < share.drafts for share in traced.passes
            )
    return seen
