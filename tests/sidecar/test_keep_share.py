"""`--keep-share`: a random share of the generations that nothing flags is recorded, scores without content."""

from __future__ import annotations

import numpy as np
import pytest
from fake_tap import FrameMaker, Rows, begin, connect, end
from sidecar_kit import World, channel_to, new_judge, running_sidecar

from monitor.audit import AuditStore, in_sample
from monitor.sidecar.judge import TapJudge
from monitor.sidecar.plan import TapPlan
from monitor.sidecar.publisher import Outcome


def judged(plan: TapPlan, keep_share: float, requests: int) -> tuple[Outcome, TapJudge]:
    """Quiet generations, and what becomes of them."""
    judge = new_judge(plan, keep_share=keep_share)
    handles = range(1, requests + 1)
    frame = FrameMaker(plan.watch_plan)(
        [Rows(handle, 0, [5, 6, 7], dense=[0, 0, 0]) for handle in handles],
        begins=[begin(handle, [5, 6, 7]) for handle in handles],
        ends=[end(handle, 3) for handle in handles],
    )
    return Outcome.of(judge.apply(frame), judge), judge


def test_by_default_nothing_quiet_is_recorded(plan: TapPlan) -> None:
    outcome, _ = judged(plan, 0.0, 5)
    assert (len(outcome.records), len(outcome.unflagged)) == (0, 5)


def test_everything_is_recorded_without_its_content(plan: TapPlan) -> None:
    outcome, _ = judged(plan, 1.0, 5)
    assert (len(outcome.records), len(outcome.unflagged)) == (5, 0)
    record = outcome.records[0][1]()
    assert record.content == "none"
    assert not record.summary.fired
    assert {token.text for token in record.tokens} == {""}
    assert {token.token_id for token in record.tokens} == {0}
    scores_pd = np.array([token.token_scores for token in record.tokens])
    assert np.isfinite(scores_pd[1]).any()


def test_a_share_is_chosen_by_generation(plan: TapPlan) -> None:
    outcome, _ = judged(plan, 0.3, 40)
    kept = {generation_id for generation_id, _ in outcome.records}
    assert 0 < len(kept) < 40
    assert all(in_sample(generation_id, 0.3) for generation_id in kept)
    assert not any(in_sample(summary.generation_id, 0.3) for summary in outcome.unflagged)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 1.0])
def test_the_sample_is_as_large_as_its_share_and_nested(share: float) -> None:
    ids = [f"generation-{number}" for number in range(20_000)]
    chosen = {name for name in ids if in_sample(name, share)}
    assert len(chosen) / len(ids) == pytest.approx(share, abs=4 * np.sqrt(0.25 / len(ids)))
    assert chosen <= {name for name in ids if in_sample(name, min(1.0, share + 0.1))}


async def test_a_running_sidecar_stores_its_sample(world: World) -> None:
    async with running_sidecar(world.config(keep_share=0.5)), channel_to(world.socket) as channel:
        tap = await connect(channel)
        handles = range(1, 21)
        await tap.send(
            tap.frame(
                [Rows(handle, 0, [0, 1], dense=[0, 0]) for handle in handles],
                begins=[begin(handle, [0, 1]) for handle in handles],
                ends=[end(handle, 2) for handle in handles],
            )
        )
    store = AuditStore(world.folder / "audit.sqlite", read_only=True)
    stored = {summary.generation_id for summary in store.page(100)}
    store.close()
    assert 0 < len(stored) < 20
    assert all(in_sample(generation_id, 0.5) for generation_id in stored)
