"""Values that the settings of every kind of tap have."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from monitor.errors import FeaturewatchError
from monitor.sae import HookPoint

EXAMPLE: Final = (
    'write --additional-config \'{"featurewatch": {"sidecar": "unix:/run/fw.sock", "hook_points": ["resid_post.14"]}}\''
)


def hook_points_in(settings: Mapping[str, Any], source: str) -> tuple[HookPoint, ...]:
    """Ascending, without duplicates; raises FeaturewatchError."""
    names = settings["hook_points"]
    if not isinstance(names, (list, tuple)) or not all(isinstance(name, str) for name in names):
        raise FeaturewatchError(f"hook_points {names!r} in {source}", "it must be a list of strings", EXAMPLE)
    return tuple(sorted({_tapped(name) for name in names}))


def _tapped(name: str) -> HookPoint:
    hook_point = HookPoint.parse(name)
    if hook_point.site != "resid_post":
        raise FeaturewatchError(
            f"hook point '{hook_point}'",
            "the tap reads resid_post.<layer>; other sites are for training and evaluation",
            f"write resid_post.{hook_point.layer}, or resid_post.{hook_point.layer - 1} for what layer "
            f"{hook_point.layer} reads"
            if hook_point.layer
            else "write resid_post.0",
        )
    return hook_point


def allows_unproven(settings: Mapping[str, Any], source: str) -> bool:
    """Whether an engine may be one that the tap was not proven on; raises FeaturewatchError."""
    allow = settings.get("allow_unproven_engine", False)
    if not isinstance(allow, bool):
        raise FeaturewatchError(
            f"allow_unproven_engine {allow!r} in {source}", "it is true or false", "write true without quotes"
        )
    return allow


def whole_number(settings: Mapping[str, Any], key: str, source: str, *, low: int, high: int, default: int) -> int:
    """Raises FeaturewatchError."""
    value = settings.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise FeaturewatchError(
            f"{key} {value!r} in {source}", f"it is a whole number from {low} to {high}", f"the default is {default}"
        )
    return value
