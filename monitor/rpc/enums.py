"""Protobuf enum values as the short words people read and write: `SEVERITY_HIGH` is "high"."""

from __future__ import annotations

from typing import Any

from monitor.errors import FeaturewatchError


def name_of(enum: Any, value: int) -> str:
    """Short name of a value of a generated enum, e.g. ``name_of(Severity, 4) == "high"``; unknown values as digits."""
    descriptor = enum.DESCRIPTOR.values_by_number.get(value)
    if descriptor is None:
        return str(value)
    return str(descriptor.name).removeprefix(_prefix(enum)).lower()


def from_name(enum: Any, name: str) -> Any:
    """Value of a short name; raises FeaturewatchError with the known names."""
    descriptor = enum.DESCRIPTOR.values_by_name.get(_prefix(enum) + name.upper())
    if descriptor is None or descriptor.number == 0:
        known = [name_of(enum, value.number) for value in enum.DESCRIPTOR.values if value.number]
        raise FeaturewatchError(
            f"{enum.DESCRIPTOR.name} {name!r}", f"known are {', '.join(known)}", "choose one of them"
        )
    return enum.Value(descriptor.name)


def _prefix(enum: Any) -> str:
    unspecified: str = enum.DESCRIPTOR.values_by_number[0].name
    return unspecified.removesuffix("UNSPECIFIED")
