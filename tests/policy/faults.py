"""What is wrong with a policy's text."""

from __future__ import annotations

from monitor.policy import PolicyError, Problem, parse_policy


def faults(text: str) -> list[Problem]:
    """All problems; empty for a good policy."""
    try:
        parse_policy(text, "p.yaml")
    except PolicyError as error:
        return list(error.problems)
    return []
