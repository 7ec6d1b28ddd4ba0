"""What a policy wants to be told about positions that no detector of it saw: `onUnseen` and `onDrop`."""

from __future__ import annotations

from monitor.policy.policy import Policy
from monitor.policy.schema.rule import OnDrop


def tells_unseen(policy: Policy) -> bool:
    """Whether `onUnseen` asks for an alert when positions of a request stay unseen, once a request."""
    return policy.document.spec.on_unseen != "accept"


def is_too_much(on_drop: OnDrop, dropped: int, positions: int) -> bool:
    """Whether more than the threshold's share of a request's positions was dropped, once it has ended."""
    return dropped / max(positions, 1) > on_drop.threshold
