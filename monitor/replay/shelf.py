"""Policies and engines that many records share, made once."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from monitor.policy import Mode, Policy, parse_policy
from monitor.policy.score_trace import ScoreJudge
from monitor.v1.generations_pb2 import Provenance


@dataclass
class Shelf:
    """`policies` by the SHA-256 of their text; put in those that are at hand, records bring others."""

    policies: dict[str, Policy] = field(default_factory=dict)
    _judges: dict[tuple[str, ...], ScoreJudge] = field(default_factory=dict)

    def policy(self, entry: Provenance) -> Policy | None:
        """What a record names; None when its text is nowhere. Raises PolicyError when it cannot be read."""
        if entry.sha256 not in self.policies and entry.text:
            self.policies[entry.sha256] = parse_policy(entry.text, f"<{entry.name} as recorded>")
        return self.policies.get(entry.sha256)

    def judge(self, policies: Iterable[Policy]) -> ScoreJudge:
        """Judges with these, whatever their modes."""
        chosen = tuple(policies)
        key = tuple(policy.sha256 for policy in chosen)
        if key not in self._judges:
            # The engine leaves out what is off.
            self._judges[key] = ScoreJudge([replace(policy, mode=Mode.ALERT) for policy in chosen])
        return self._judges[key]
