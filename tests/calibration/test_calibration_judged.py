"""Many generations in one call of the engine: as one after the other."""

from __future__ import annotations

import numpy as np
import pytest
from calibration_samples import POLICY, policy, prompt_trace

from monitor.calibration import judged as judged_module
from monitor.calibration.generation import Generation
from monitor.calibration.judged import judge
from monitor.calibration.levels import Levels, with_levels
from monitor.policy import DetectorState
from monitor.policy.score_trace import ScoreJudge


def mixed(count: int) -> list[Generation]:
    """Of different lengths, some empty, with tokens that detector a does not judge."""
    rng = np.random.default_rng(0)
    found = []
    for number in range(count):
        length = int(rng.integers(0, 20))
        a, b = rng.normal(size=length), rng.normal(size=length)
        a[rng.random(length) < 0.2] = np.nan
        found.append(Generation(str(number), prompt_trace({"toy/a": a, "toy/b": b}), False))
    return found


def test_together_as_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judged_module, "_TOGETHER", 16)
    text = POLICY.replace("aggregate: {kind: max}", "aggregate: {kind: rolling_mean, window: 4, minTokens: 3}")
    levels = {"a": Levels(0.8, 0.5, 0.3), "b": Levels(1.0, 0.2, None)}
    toy = with_levels(policy("a.fire and not b.clear or b.fire", text), levels)
    generations = mixed(50)
    together = judge(toy, generations)
    scores = ScoreJudge([toy])
    for index, generation in enumerate(generations):
        alone = scores.judge(generation.trace)
        judged_pd = np.isfinite(alone.token_scores_nd)
        shown_pd = np.where(judged_pd & (judged_pd.cumsum(0) >= 3), alone.scores_nd, -np.inf)
        assert shown_pd.max(0, initial=-np.inf).tolist() == [together.peaks[name][index] for name in "ab"]
        fired = (alone.states_nd == DetectorState.FIRE).any(0)
        assert fired.tolist() == [together.fired[name][index] for name in "ab"]
        assert bool(alone.firings) == together.flagged_g[index] == together.rules["R1"][index]
    assert 0 < together.flagged_g.sum() < len(generations)
