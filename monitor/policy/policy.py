"""A policy file that was read and found well formed."""

from __future__ import annotations

from dataclasses import dataclass, field

from monitor.policy.schema.document import PolicyDocument
from monitor.policy.vocabulary import Mode


@dataclass(frozen=True)
class Policy:
    """A policy with the text it was read from.

    Attributes:
        name: stable id, used in alerts and metrics.
        revision: grows with every change of the file.
        sha256: of the text, hexadecimal.
        file: the name it was read under.
        source: the text.
        mode: as written in the file.
        document: the parsed fields.
        lines: line of each field by its path, e.g. ``spec.rules[0].when``.
    """

    name: str
    revision: int
    sha256: str
    file: str
    source: str = field(repr=False)
    mode: Mode
    document: PolicyDocument = field(repr=False)
    lines: dict[str, int] = field(repr=False, compare=False, default_factory=dict)
