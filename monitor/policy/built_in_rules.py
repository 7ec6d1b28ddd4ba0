"""Which of the reserved rules a policy asks for."""

from __future__ import annotations

from monitor.policy.blindness import tells_unseen
from monitor.policy.policy import Policy
from monitor.policy.vocabulary import DROP_RULE, TIMEOUT_RULE, UNSEEN_RULE


def built_in_rules(policy: Policy) -> list[str]:
    """Those that may alert on a request of the policy; `on-stale`, which nobody asks for, tells of a tap."""
    spec, asked = policy.document.spec, []
    if tells_unseen(policy):
        asked.append(UNSEEN_RULE)
    if spec.on_drop is not None and "alert" in spec.on_drop.actions:
        asked.append(DROP_RULE)
    if any(rule.on_timeout == "alert" for rule in spec.rules):
        asked.append(TIMEOUT_RULE)
    return asked
