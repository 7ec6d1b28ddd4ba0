"""Which mode policies are in: what the file says, unless the sidecar's start or a call while it runs says otherwise."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from monitor.errors import FeaturewatchError
from monitor.policy import Mode, Policy
from monitor.v1.alerts_pb2 import ModeSource


class PolicyMode(NamedTuple):
    """A mode and who set it."""

    mode: Mode
    source: ModeSource.ValueType


@dataclass(frozen=True)
class Modes:
    """What overrides the files. A change makes another object, so that one is the same for as long as it is looked at.

    Attributes:
        load: by policy, from the start of the sidecar.
        runtime: by policy, from calls; goes before `load`.
    """

    load: Mapping[str, Mode] = field(default_factory=dict)
    runtime: Mapping[str, Mode] = field(default_factory=dict)

    def of(self, policy: Policy) -> PolicyMode:
        """The mode in force, as far as the serving configuration permits it."""
        if policy.name in self.runtime:
            return PolicyMode(self.runtime[policy.name], ModeSource.MODE_SOURCE_RUNTIME)
        if policy.name in self.load:
            return PolicyMode(self.load[policy.name], ModeSource.MODE_SOURCE_LOAD)
        return PolicyMode(policy.mode, ModeSource.MODE_SOURCE_FILE)

    def with_runtime(self, name: str, mode: Mode | None) -> Modes:
        """With another mode for a policy; None takes the override back."""
        others = {other: kept for other, kept in self.runtime.items() if other != name}
        return replace(self, runtime=others if mode is None else {**others, name: mode})

    def kept_for(self, names: Collection[str]) -> Modes:
        """Without what calls set for policies that are gone: one that comes back under the name is another one."""
        return replace(self, runtime={name: mode for name, mode in self.runtime.items() if name in names})


def parse_modes(options: Iterable[str]) -> dict[str, Mode]:
    """Modes by policy, from options of the command line; raises FeaturewatchError."""
    modes: dict[str, Mode] = {}
    for option in options:
        name, mode = _parse_mode(option)
        if modes.setdefault(name, mode) is not mode:
            raise FeaturewatchError(
                f"--mode {option}", f"another one says {modes[name].name.lower()}", "drop one of them"
            )
    return modes


def _parse_mode(option: str) -> tuple[str, Mode]:
    name, separator, word = option.partition("=")
    known = {mode.name.lower(): mode for mode in Mode}
    if not separator or not name or word not in known:
        raise FeaturewatchError(
            f"--mode {option}",
            f"it is a policy's name, = and one of {', '.join(known)}",
            "write for example --mode my-policy=shadow",
        )
    return name, known[word]
