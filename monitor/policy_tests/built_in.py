"""Alerts of one request that no rule of the policy sends: positions unseen or dropped, verdicts after a deadline."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from monitor.policy.blindness import is_too_much, tells_unseen
from monitor.policy.compiled import PolicySet
from monitor.policy.deadlines import Deadline, judged_rows
from monitor.policy.engine import Judgement
from monitor.policy.policy import Policy
from monitor.policy.vocabulary import DROP_RULE, TIMEOUT_RULE, UNSEEN_RULE, Phase


def told_unseen(policy: Policy, seen_p: Sequence[str]) -> Iterator[tuple[str, int]]:
    """(rule, position) of what is told of positions that stay unseen; `seen_p` has a word of `SEEN` for each."""
    if "unseen" in seen_p and tells_unseen(policy):
        yield UNSEEN_RULE, seen_p.index("unseen")


def told_dropped(policy: Policy, seen_p: Sequence[str]) -> Iterator[tuple[str, int]]:
    """(rule, position) of what is told at the end of positions that were dropped."""
    on_drop, dropped = policy.document.spec.on_drop, seen_p.count("dropped")
    if on_drop is not None and "alert" in on_drop.actions and is_too_much(on_drop, dropped, len(seen_p)):
        yield DROP_RULE, seen_p.index("dropped")


def told_late(
    policies: PolicySet, passed: Sequence[Deadline], judgement: Judgement, phases_p: Sequence[int]
) -> Iterator[tuple[str, int]]:
    """(rule, position) where a rule was judged after a deadline that alerts.

    As the engine does it, the prompt is one forward pass and each token behind it another.

    Args:
        policies: of one policy.
        passed: deadlines that were over whenever tokens were judged.
        judgement: rows are positions.
        phases_p: codes of `Phase`.
    """
    prompt = next((p for p, phase in enumerate(phases_p) if phase != Phase.PROMPT), len(phases_p))
    ends = [prompt, *range(prompt + 1, len(phases_p) + 1)]
    alerting = [judged_rows(policies.rules[deadline.rule], judgement) for deadline in passed if deadline.alerts]
    for first, end in zip([0, *ends], ends, strict=False):
        for judged_p in alerting:
            found = np.flatnonzero(judged_p[first:end])
            if found.size:
                yield TIMEOUT_RULE, first + int(found[0])
                return
