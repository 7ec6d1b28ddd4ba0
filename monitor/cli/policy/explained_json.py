"""An explanation for machines."""

from __future__ import annotations

from typing import Any

import numpy as np

from monitor.cli.policy.explained import STATE_NAMES, phase_name, unknown_lines
from monitor.replay import Explanation, Recorded
from monitor.rpc import name_of
from monitor.v1.alerts_pb2 import Mode, Severity


def as_json(explained: Explanation, recorded: Recorded) -> dict[str, Any]:
    """Everything, token by token; `null` where nothing was judged or nothing is known."""
    tokens = recorded.record.tokens
    return {
        "generation": recorded.id,
        "policy": explained.policy.name,
        "revision": explained.policy.revision,
        "sha256": explained.policy.sha256,
        "recorded": explained.recorded,
        "mode": explained.mode.name.lower(),
        "reason": explained.reason,
        "unknown": unknown_lines(explained, recorded),
        "alerts": _alerts(explained),
        "tokens": [
            {
                "position": token.position,
                "phase": phase_name(token.phase),
                "text": token.text,
                "observed": token.observed,
                "detectors": {
                    one.id: {
                        "tokenScore": _number(explained.token_scores_pd[p, d]),
                        "score": _number(explained.scores_pd[p, d]),
                        "state": STATE_NAMES[int(explained.states_pd[p, d])],
                    }
                    for d, one in enumerate(explained.detectors)
                },
                "rules": {
                    view.rule.id: {
                        "value": view.value_p[p],
                        "terms": [list(pair) for pair in zip(view.terms, view.terms_p[p], strict=True)],
                        "held": view.held_p[p],
                        "fires": p in view.fired,
                        "exception": view.fired.get(p, ""),
                    }
                    for view in explained.rules
                },
            }
            for p, token in enumerate(tokens)
        ],
    }


def _alerts(explained: Explanation) -> list[dict[str, Any]]:
    return [
        {
            "rule": other.alert.rule,
            "position": other.alert.position,
            "severity": name_of(Severity, other.alert.severity),
            "mode": name_of(Mode, other.alert.mode),
            "latencyMs": other.alert.latency_nanos / 1e6,
            "unseenPositions": other.alert.unseen_positions,
            "droppedPositions": other.alert.dropped_positions,
            "gaps": [{"first": gap.first_position, "count": gap.count, "reason": gap.reason} for gap in other.gaps],
            "deadlinesMs": {rule.id: rule.deadline_ms for rule in other.late},
            "correlated": list(other.alert.correlated),
        }
        for other in explained.others
    ]


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
