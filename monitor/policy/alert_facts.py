"""What correlations and notifications look at in an alert."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from monitor.policy.vocabulary import Severity


@dataclass(frozen=True, slots=True)
class AlertFacts:
    """One alert.

    Attributes:
        alert_id: stable id.
        time_unix_nanos: of the decision, by the wall clock.
        rule: which rule or correlation fired.
        tenant: whom the request is for; empty when it names none.
        adapter: LoRA adapter of the request; empty without one.
        tap: id of the tap that reported the request.
        generation: id of the generation.
        exception: name of the one that holds it back; empty when none does.
    """

    alert_id: str
    time_unix_nanos: int
    rule: str
    severity: Severity
    tenant: str
    model: str
    adapter: str
    tap: str
    generation: str
    exception: str = ""

    def value(self, name: str) -> str:
        """Of a field by its name in `groupBy` and `of`."""
        return self.severity.name.lower() if name == "severity" else str(getattr(self, name))

    def values(self, names: Sequence[str]) -> tuple[str, ...]:
        """What alerts of one group have in common."""
        return tuple(map(self.value, names))
