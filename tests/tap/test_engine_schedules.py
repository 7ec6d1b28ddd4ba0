"""Random schedules on a real engine: whatever clients and scheduler do, every position is reported once, and rightly.

`pytest -s` shows what the schedules ran into.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from support.schedule_property import assert_happened, try_schedules
from support.stepped_engine import SteppedEngines

# Shrinking a failing schedule takes a while.
pytestmark = [pytest.mark.engine, pytest.mark.timeout(1200)]

HOOK_POINTS = ["resid_post.0", "resid_post.2", "resid_post.3"]
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
    seen = try_schedules(engines, tmp_path, HOOK_POINTS, examples=24, runner="v1")
    assert_happened(seen, *EVENTS)
    assert seen["accepted drafts"] == seen["rejected drafts"] == 0


def test_any_schedule_with_drafts_is_reported_without_the_rejected_ones(
    engines: SteppedEngines, tmp_path: Path
) -> None:
    """Prompts repeat short patterns, so that the n-gram proposer finds something, and now and then is right."""
    seen = try_schedules(
        engines, tmp_path, HOOK_POINTS, examples=16, runner="v1", repeating=True, speculative_config=NGRAM
    )
    assert_happened(seen, *EVENTS, "accepted drafts", "rejected drafts", "steps with accepted and rejected drafts")
