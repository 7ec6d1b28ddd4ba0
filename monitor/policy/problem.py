"""What is wrong with a policy file, field by field."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from monitor.errors import FeaturewatchError


@dataclass(frozen=True)
class Problem:
    """One fault of one field.

    Attributes:
        file: name of the policy file.
        line: line in it, from 1.
        field: path of the field, e.g. ``spec.detectors[0].threshold.fire``; empty for the file as a whole.
        value: the offending value as written (shortened), empty where there is none.
        rule: the rule it breaks.
        remedy: what the author can do.
    """

    file: str
    line: int
    field: str
    value: str
    rule: str
    remedy: str

    def __str__(self) -> str:
        where = f"{self.file}:{self.line} {self.field}".rstrip()
        value = f"{self.value} — " if self.value else ""
        end = "?" if self.remedy.startswith("did you mean") else "."
        return f"{where}: {value}{self.rule}. {self.remedy[:1].upper()}{self.remedy[1:]}{end}"


class PolicyError(FeaturewatchError):
    """A policy that is refused as a whole; `problems` names every fault that was found."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        first = self.problems[0]
        super().__init__(f"{first.file}:{first.line} {first.field} {first.value}".rstrip(), first.rule, first.remedy)

    def __str__(self) -> str:
        return "\n".join(map(str, self.problems))
