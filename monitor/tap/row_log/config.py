"""Settings of a tap that records rows into a folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from monitor.errors import FeaturewatchError
from monitor.sae import HookPoint
from monitor.tap.settings import allows_unproven, hook_points_in, whole_number

_KNOWN: Final = ("hook_points", "allow_unproven_engine", "record_to", "record_mib")


@dataclass(frozen=True)
class RowLogConfig:
    """Settings of a tap that writes residual rows into a folder instead of telling a sidecar: for offline use.

    Attributes:
        record_to: absolute path of the folder (`monitor.sae.row_log`).
        hook_points: sites to tap, ascending, without duplicates.
        allow_unproven_engine: attach to a vLLM version that this tap was not proven on.
        record_mib: most MiB of steps in the folder that nobody has read and removed; beyond that recording fails.
    """

    record_to: Path
    hook_points: tuple[HookPoint, ...]
    allow_unproven_engine: bool = False
    record_mib: int = 1024


def row_log_config(settings: Mapping[str, Any], source: str) -> RowLogConfig:
    """Raises FeaturewatchError."""
    beside = [key for key in settings if key not in _KNOWN]
    if beside:
        raise FeaturewatchError(
            f"record_to in {source} beside {', '.join(beside)}",
            "a tap that records rows into a folder may slow the engine and tells no sidecar; beside it go "
            + ", ".join(key for key in _KNOWN if key != "record_to"),
            f"remove record_to to serve, or {', '.join(beside)} to record",
        )
    folder = settings["record_to"]
    if not isinstance(folder, str) or not Path(folder).is_absolute():
        raise FeaturewatchError(
            f"record_to {folder!r} in {source}",
            "it is the absolute path of a folder: workers may run elsewhere than the engine was started",
            "write for example /var/tmp/rows",
        )
    return RowLogConfig(
        record_to=Path(folder),
        hook_points=hook_points_in(settings, source),
        allow_unproven_engine=allows_unproven(settings, source),
        record_mib=whole_number(settings, "record_mib", source, low=1, high=1_048_576, default=RowLogConfig.record_mib),
    )
