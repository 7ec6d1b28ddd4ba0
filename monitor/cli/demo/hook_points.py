"""Which hook points vLLM must tap so that every policy can be judged."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from monitor.errors import FeaturewatchError
from monitor.policy import Mode, compile_policies
from monitor.sae import Catalog
from monitor.sidecar.policy_book import PolicyBook


def hook_points_needed(policies: Path, zoo: Sequence[Path]) -> list[str]:
    """Hook points of all directions that the policies name, except those of policies that are off.

    Raises:
        FeaturewatchError: a policy is bad, or none is active.
    """
    book = PolicyBook.load([policies], Catalog(zoo))
    active = [policy for policy in book.policies if policy.mode is not Mode.OFF]
    if not active:
        raise FeaturewatchError(f"policies {policies}", "every one of them is off", "set spec.mode to alert or shadow")
    return sorted({direction.hook_point for direction in compile_policies(active, book.sources).directions})
