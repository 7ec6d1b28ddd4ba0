"""The property that any schedule is reported as the engine ran it, and what the tried schedules ran into."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, example, given, settings

from support.comparison import check_played
from support.glassllm import WIDTH, glassllm_folder
from support.reference import Reference
from support.schedules import Arrival, Schedule, schedules
from support.stepped_engine import Played, SteppedEngines

# In a KV cache of 12 blocks a few requests displace each other.
ENGINE = {
    "max_model_len": 320,
    "max_num_batched_tokens": 64,
    "max_num_seqs": 16,
    "block_size": 32,
    "num_gpu_blocks_override": 12,
}
# One in which much happens, beside the random ones.
_BUSY = Schedule(
    arrivals=[
        Arrival(0, 130, 120, 0, 60, 1, 0.0, after=0, aborted_after=None),
        Arrival(0, 130, 20, 1, 60, 2, 1.0, after=0, aborted_after=None),
        Arrival(0, 130, 20, 2, 60, 3, 1.0, after=2, aborted_after=20),
        Arrival(1, 96, 100, 3, 60, 1, 0.0, after=2, aborted_after=None),
        Arrival(1, 96, 100, 4, 60, 1, 0.0, after=2, aborted_after=30),
        Arrival(2, 0, 120, 5, 60, 1, 0.0, after=0, aborted_after=None),
        Arrival(2, 64, 8, 6, 60, 1, 0.0, after=1, aborted_after=None),
        Arrival(2, 64, 8, 7, 4, 1, 0.0, after=1, aborted_after=0),
    ],
    seed=0,
)


def try_schedules(
    engines: SteppedEngines,
    folder: Path,
    hook_points: list[str],
    *,
    examples: int,
    runner: str,
    asynchronous: bool = False,
    repeating: bool = False,
    tails: bool = True,
    **args: Any,
) -> Counter[str]:
    """Runs random schedules on a tapped glassllm and holds what its sidecar was told against the engine's own trace and
    Hugging Face; a failing one is shrunk and printed.

    Args:
        runner: the model runner that it must be.
        asynchronous: whether it must schedule so.
        tails: False where the tap does not know the tokens that were sampled and never fed back.
        args: more `EngineArgs`.

    Returns:
        How often which event happened.
    """
    reference, seen = Reference(glassllm_folder()), Counter[str]()
    with engines.tapped(folder, hook_points, WIDTH, **ENGINE, **args) as (engine, sidecar):
        told = sidecar.hellos[0].engine
        assert (told.runner, told.async_scheduling) == (runner, asynchronous)

        @settings(
            max_examples=examples,
            deadline=None,
            print_blob=True,
            database=None,
            phases=[Phase.explicit, Phase.generate, Phase.shrink],
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.large_base_example],
        )
        @given(schedule=schedules(repeating=repeating))
        @example(schedule=replace(_BUSY, repeating=repeating))
        def any_schedule(schedule: Schedule) -> None:
            sidecar.forget()
            played = engine.play(schedule.events(), schedule.seed)
            check_played(sidecar, played, reference, tails=tails)
            assert len(sidecar.requests) == len(played.requests), "a request that the scheduler does not know"
            _check_clients(schedule, played)
            seen.update(_events(schedule, played))

        any_schedule()
        beats = sidecar.heartbeats
        sidecar.wait_for(lambda _: beats[-1].rejected_draft_rows == seen["rejected drafts"], "count of rejected drafts")
        assert (beats[-1].errors, beats[-1].steps) == (0, beats[-1].steps_fired)
    print(f"\n{runner}: {dict(seen)}")
    return seen


def assert_happened(seen: Counter[str], *events: str) -> None:
    """Without them the schedules have shown nothing."""
    for event in events:
        assert seen[event] > 0, f"no schedule had {event}: {dict(seen)}"


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
