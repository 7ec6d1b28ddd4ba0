"""Rules' deadlines: which are over when a verdict comes, and on which tokens it came too late."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from monitor.policy.compiled import CompiledRule, PolicySet
from monitor.policy.engine import Judgement


@dataclass(frozen=True)
class Deadline:
    """Of one rule.

    Attributes:
        rule: index into `PolicySet.rules`.
        nanos: longest time from the end of a forward pass to the verdict on its tokens.
        alerts: whether `onTimeout` asks for an alert.
    """

    rule: int
    nanos: int
    alerts: bool


def deadlines_of(policies: PolicySet) -> tuple[Deadline, ...]:
    """In the order of the rules; those that have none are left out."""
    written = {(policy.name, rule.id): rule for policy in policies.policies for rule in policy.document.spec.rules}
    rules = [(index, written[rule.policy, rule.id]) for index, rule in enumerate(policies.rules)]
    return tuple(
        Deadline(index, rule.deadline_ms * 1_000_000, rule.on_timeout == "alert")
        for index, rule in rules
        if rule.deadline_ms is not None
    )


def overdue(deadlines: Iterable[Deadline], elapsed_nanos: int) -> tuple[Deadline, ...]:
    """Those that are over so long after the end of a forward pass."""
    return tuple(deadline for deadline in deadlines if elapsed_nanos > deadline.nanos)


def judged_rows(rule: CompiledRule, judgement: Judgement) -> npt.NDArray[np.bool_]:
    """bool [n]: rows that one of the rule's detectors judged, so that a verdict of the rule was due."""
    return np.asarray(np.isfinite(judgement.token_scores_nd[:, rule.detectors]).any(axis=1))
