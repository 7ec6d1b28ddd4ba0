"""Random schedules for a stepped engine: who asks what, when, and who hangs up when."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from hypothesis import strategies as st

_PREFIXES = 3


@dataclass(frozen=True)
class Arrival:
    """One request of a schedule.

    Attributes:
        shared: first so many tokens are those of the shared prefix number `prefix`.
        own: tokens behind them; requests with the same `variant` have the same ones.
        after: steps between the request before and this one.
        aborted_after: steps from its arrival to its abort; None when the client stays.
    """

    prefix: int
    shared: int
    own: int
    variant: int
    max_tokens: int
    completions: int
    temperature: float
    after: int
    aborted_after: int | None

    def prompt(self, repeating: bool) -> list[int]:
        shared = _tokens(self.prefix, repeating)[: self.shared]
        return shared + _tokens(_PREFIXES + self.variant, repeating)[: self.own]


@dataclass(frozen=True)
class Schedule:
    """Arrivals in their order, and the seed of what is sampled."""

    arrivals: list[Arrival]
    seed: int
    repeating: bool = False

    def events(self) -> list[dict[str, Any]]:
        """For `SteppedEngine.play`. The request at place i is called r<i>."""
        timed: list[tuple[int, int, dict[str, Any]]] = []
        now = 0
        for index, arrival in enumerate(self.arrivals):
            now += arrival.after
            name = f"r{index}"
            request = {
                "id": name,
                "prompt": arrival.prompt(self.repeating),
                "max_tokens": arrival.max_tokens,
                "n": arrival.completions,
                # vLLM refuses several completions under greedy sampling.
                "temperature": arrival.temperature if arrival.completions == 1 else 1.0,
            }
            timed.append((now, len(timed), {"add": request}))
            if arrival.aborted_after is not None:
                timed.append((now + arrival.aborted_after, len(timed), {"abort": name}))
        timed.sort(key=lambda entry: entry[:2])
        events: list[dict[str, Any]] = []
        clock = 0
        for time, _, event in timed:
            if time > clock:
                events.append({"steps": time - clock})
                clock = time
            events.append(event)
        return events


def schedules(*, repeating: bool = False) -> st.SearchStrategy[Schedule]:
    """Schedules of up to 12 requests of 1 to 250 tokens, for prefill chunks of 64 tokens and blocks of 32.

    `repeating` makes prompts of short patterns that come again and again, as n-gram drafts need them.
    """
    arrivals = st.builds(
        Arrival,
        prefix=st.integers(0, _PREFIXES - 1),
        shared=st.sampled_from([0, 31, 32, 33, 64, 70, 96, 130]),
        own=st.one_of(st.integers(1, 8), st.integers(1, 120)),
        variant=st.integers(0, 20),
        max_tokens=st.one_of(st.integers(1, 4), st.integers(1, 60)),
        completions=st.sampled_from([1, 1, 1, 2, 3]),
        temperature=st.sampled_from([0.0, 0.0, 1.0]),
        after=st.sampled_from([0, 0, 0, 1, 2, 5]),
        aborted_after=st.one_of(st.none(), st.none(), st.integers(0, 40)),
    )
    return st.builds(
        Schedule, arrivals=st.lists(arrivals, min_size=3, max_size=12), seed=st.just(0), repeating=st.just(repeating)
    )


def all_at_once(requests: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Events of requests that arrive together. Those with `abort_after` are aborted so many steps later, in turn."""
    events: list[dict[str, Any]] = [{"add": request} for request in requests]
    for request in requests:
        if "abort_after" in request:
            events += [{"steps": request["abort_after"]}, {"abort": request["id"]}]
    return events


def _tokens(seed: int, repeating: bool) -> list[int]:
    random = np.random.default_rng(seed)
    if not repeating:
        return random.integers(4, 1000, 130).tolist()
    pattern = random.integers(4, 1000, int(random.integers(2, 9))).tolist()
    return (pattern * 130)[:130]
