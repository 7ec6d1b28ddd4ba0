"""Any schedule of vLLM's own scheduler, through a fake of each model runner, the real adapter, tap and book: every
position of every request is observed once, as what it was, or it is in a gap that says why.

Rows hold (request, position, token), so a row that is attributed wrongly, padding, and a rejected draft are all seen.
"""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from support.fake_batches import Row
from support.real_scheduler import Mode
from support.tapped_scheduler import Arrival, TappedScheduler

from monitor.rpc import ints_from_bytes
from monitor.tap.record import NO_PLAN, PREFIX_CACHE, QUEUE_FULL, TAP_ERROR

MODES = [
    Mode("v1", asynchronous=False, drafts=0),
    Mode("v1", asynchronous=False, drafts=3),
    Mode("v1", asynchronous=True, drafts=0),
    Mode("v2", asynchronous=False, drafts=3),
    Mode("v2", asynchronous=True, drafts=0),
    Mode("v2", asynchronous=True, drafts=3),
]
ERRORS = {"encode", "silent", "table", "verdict", "book before", "book behind"}


def _prompt(prefix: int, shared: int, variant: int, own: int) -> tuple[int, ...]:
    first = [1 + (prefix * 31 + index * 7) % 90 for index in range(shared)]
    return (*first, *(1 + (variant * 17 + index * 11) % 90 for index in range(own)))


ARRIVALS = st.lists(
    st.builds(
        Arrival,
        after=st.integers(0, 6),
        prompt=st.builds(_prompt, st.integers(0, 1), st.integers(0, 24), st.integers(0, 3), st.integers(1, 20)),
        max_tokens=st.integers(1, 24) | st.just(24),
        aborted_after=st.none() | st.integers(0, 12),
    ),
    min_size=3,
    max_size=8,
)


@pytest.mark.parametrize("faults", [0.0, 0.2], ids=["sound", "faulty"])
@pytest.mark.parametrize("mode", MODES, ids=lambda mode: f"{mode.runner}-{'a' * mode.asynchronous}sync-{mode.drafts}")
def test_every_position_is_observed_or_in_a_gap_once(mode: Mode, faults: float) -> None:
    seen = Counter[str]()

    @settings(
        max_examples=25,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=[HealthCheck.too_slow],
    )
    @given(
        arrivals=ARRIVALS,
        seed=st.integers(0, 2**32 - 1),
        blocks=st.integers(20, 26),
        prefix_caching=st.booleans(),
        lag=st.integers(0, 3),
    )
    def any_schedule(arrivals: list[Arrival], seed: int, blocks: int, prefix_caching: bool, lag: int) -> None:
        engine = TappedScheduler(mode, seed=seed, blocks=blocks, prefix_caching=prefix_caching, lag=lag, faults=faults)
        engine.run(arrivals)
        _check(engine, arrivals, seen)

    any_schedule()
    print(f"\n{dict(seen)}")
    expected = ["observed", "restarted", "prefix cache"]
    expected += ["rejected"] if mode.drafts else []
    expected += ["tap error", "queue full", "no plan"] if faults else []
    for event in expected:
        assert seen[event] > 0, f"no schedule had {event}: {dict(seen)}"


def _check(engine: TappedScheduler, arrivals: list[Arrival], seen: Counter[str]) -> None:
    told = Books()
    for step in engine.sink.steps:
        told.take(step)
    faulty = bool(engine.faults)
    if not faulty:
        assert engine.stats.engine_errors == 0
        assert engine.stats.rejected_draft_rows == engine.world.rejected
    # Waiting for the device is only for the end, and where nothing is scheduled that would wait.
    assert engine.copier.waits <= 2 * (1 + engine.copier.lag) * (1 + engine.idle_steps)
    assert set(told.names.values()) == set(engine.world.numbers)
    seen["rejected"] += engine.world.rejected
    for handle, name in told.names.items():
        rows, number = engine.world.rows[name], engine.world.numbers[name]
        assert told.prompts[handle] == list(arrivals[int(name[1:])].prompt)
        ends, computed = told.ends[handle], max(rows, default=-1) + 1
        # How many of the last drafts were accepted, nobody may have told a tap that did not see the last steps.
        slack = 2 * engine.mode.drafts if faulty and engine.mode.runner == "v2" else 0
        assert computed <= ends <= computed + slack
        assert sorted(told.fates[handle]) == list(range(ends))
        for position, fate in told.fates[handle].items():
            passes = rows.get(position, [])
            if fate == PREFIX_CACHE:
                # What was skipped at first may be computed later, behind a preemption; that is not told again.
                skipped_in = min(row.step for above in range(position + 1, computed) for row in rows.get(above, []))
                passes = [row for row in passes if row.step <= skipped_in]
            seen["restarted"] += len(passes) > 1
            seen[_check_fate(engine, fate, (number, position), passes)] += 1


def _check_fate(
    engine: TappedScheduler, fate: tuple[float, ...] | int, where: tuple[int, int], passes: list[Row]
) -> str:
    """Asserts that a position was rightly observed, or rightly not; returns which."""
    reasons = [engine.faults.get(row.step, set()) for row in passes]
    if isinstance(fate, tuple):
        request, position, token, fed = fate
        assert (request, position) == where
        assert token == fed
        assert token in {row.token for row in passes}, "a token that was not accepted"
        return "observed"
    if fate == PREFIX_CACHE:
        assert not passes, "computed, and said to be from the cache"
        return "prefix cache"
    if fate == QUEUE_FULL:
        assert any("full" in faults for faults in reasons)
        return "queue full"
    if fate == NO_PLAN:
        assert any("no plan" in faults for faults in reasons)
        return "no plan"
    assert fate == TAP_ERROR
    certain = ERRORS - {"verdict"}
    blind = any(
        faults & certain or ("verdict" in faults and row.draft) for faults, row in zip(reasons, passes, strict=True)
    )
    assert blind or not passes, "blind for a step in which nothing went wrong"
    return "tap error"


class Books:
    """What a sidecar would know.

    Attributes:
        fates: by handle and position, what was observed (the row and its token id), or the reason of the gap.
    """

    def __init__(self) -> None:
        self.names: dict[int, str] = {}
        self.prompts: dict[int, list[int]] = {}
        self.fates: dict[int, dict[int, tuple[float, ...] | int]] = {}
        self.ends: dict[int, int] = {}

    def take(self, step: object) -> None:
        for begin in step.begins:  # type: ignore[attr-defined]
            assert begin.handle not in self.names
            self.names[begin.handle] = begin.request_id
            self.prompts[begin.handle] = ints_from_bytes(begin.prompt_token_ids, "prompt").tolist()
            self.fates[begin.handle] = {}
        for handle, first, count, reason in step.gaps:  # type: ignore[attr-defined]
            self._add(handle, first, [reason] * count)
        self._take_rows(step)
        for end in step.ends:  # type: ignore[attr-defined]
            assert end.handle not in self.ends
            self.ends[end.handle] = end.positions

    def _take_rows(self, step: object) -> None:
        segments, payload = step.segments, step.payload  # type: ignore[attr-defined]
        if payload is None:
            for handle, first, count in segments:
                self._add(handle, first, [step.missing_because] * count)  # type: ignore[attr-defined]
            return
        rows = payload.read()
        ((_, acts_nk),) = rows.activations
        values = [(*acts.tolist(), float(token)) for acts, token in zip(acts_nk, rows.token_ids_n, strict=True)]
        assert len(values) == sum(count for _, _, count in segments)
        for handle, first, count in segments:
            self._add(handle, first, values[:count])
            del values[:count]

    def _add(self, handle: int, first: int, fates: list[tuple[float, ...]] | list[int]) -> None:
        known = self.fates[handle]
        assert handle not in self.ends
        assert first == len(known), "a hole, or a position twice"
        known.update(zip(range(first, first + len(fates)), fates, strict=True))
