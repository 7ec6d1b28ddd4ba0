"""The words that policies, token classes and the engine share, with their codes."""

from __future__ import annotations

from enum import IntEnum

#: Operators of a rule's postfix program (`CompiledRule.program`).
AND, OR, NOT = -1, -2, -3

#: Rule ids of alerts that no rule of a policy sends; no rule has them.
UNSEEN_RULE, DROP_RULE, TIMEOUT_RULE, STALE_RULE = "on-unseen", "on-drop", "on-timeout", "on-stale"
#: With the field that such an alert comes from.
RESERVED_RULES = {
    UNSEEN_RULE: "spec.onUnseen",
    DROP_RULE: "spec.onDrop",
    TIMEOUT_RULE: "onTimeout",
    STALE_RULE: "spec.fittedOn",
}


class Mode(IntEnum):
    """What a policy may do, from nothing to everything. The codes are those of ``monitor.v1.Mode``."""

    OFF = 1
    SHADOW = 2
    ALERT = 3
    ENFORCE = 4


class TokenClass(IntEnum):
    """What a token is in the chat template."""

    CONTENT = 0
    #: Position 0, whatever the token: its activations are outliers in every decoder model.
    BOS = 1
    SPECIAL = 2
    #: Role words of a turn header and the newlines that close a header or a turn.
    TEMPLATE = 3
    #: Content of the system turn.
    SYSTEM = 4


class Phase(IntEnum):
    """Which part of a request a row belongs to. The codes are those of ``monitor.v1.Phase``."""

    PROMPT = 1
    REASONING = 2
    RESPONSE = 3


class DetectorState(IntEnum):
    """How a detector stands on one request. The codes are those of ``monitor.v1.DetectorState``."""

    CLEAR = 1
    WARN = 2
    FIRE = 3


class Severity(IntEnum):
    """Sigma's levels. The codes are those of ``monitor.v1.Severity``."""

    INFORMATIONAL = 1
    LOW = 2
    MEDIUM = 3
    HIGH = 4
    CRITICAL = 5


#: Of alerts that no rule of a policy sends.
RESERVED_SEVERITIES = {
    UNSEEN_RULE: Severity.LOW,
    DROP_RULE: Severity.LOW,
    TIMEOUT_RULE: Severity.LOW,
    STALE_RULE: Severity.MEDIUM,
}
