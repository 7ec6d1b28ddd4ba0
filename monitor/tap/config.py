"""What the operator asked the tap to do: one key of `--additional-config`, or environment variables."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from monitor.errors import FeaturewatchError
from monitor.rpc import ClientTls, Target
from monitor.sae import HookPoint
from monitor.tap.row_log.config import RowLogConfig, row_log_config
from monitor.tap.settings import EXAMPLE, allows_unproven, hook_points_in, whole_number

ADDITIONAL_CONFIG_KEY: Final = "featurewatch"
ENV_SIDECAR: Final = "FEATUREWATCH_SIDECAR"
ENV_HOOK_POINTS: Final = "FEATUREWATCH_HOOK_POINTS"
ENV_ALLOW_UNPROVEN: Final = "FEATUREWATCH_ALLOW_UNPROVEN_ENGINE"
ENV_RECORD_TO: Final = "FEATUREWATCH_RECORD_TO"

_TLS: Final = ("tls_ca", "tls_cert", "tls_key")
_KNOWN: Final = (
    "sidecar",
    "hook_points",
    *_TLS,
    "allow_unproven_engine",
    "queue_frames",
    "queue_mib",
    "recorder_mib",
    "record_to",
    "record_mib",
)


@dataclass(frozen=True)
class TapConfig:
    """One tap's settings.

    Attributes:
        sidecar: where the frames go.
        hook_points: sites to tap, ascending, without duplicates.
        allow_unproven_engine: attach to a vLLM version that this tap was not proven on.
        queue_frames: most frames that wait for the sidecar, sent and unacknowledged ones included.
        queue_mib: most MiB that these frames hold.
        tls: for a `tls:` sidecar: whom the tap trusts and what it shows.
        recorder_mib: most MiB that the flight recorder holds over all hook points, on the engine's device; 0: none.
    """

    sidecar: Target
    hook_points: tuple[HookPoint, ...]
    allow_unproven_engine: bool = False
    queue_frames: int = 1024
    queue_mib: int = 64
    recorder_mib: int = 64
    tls: ClientTls = field(default_factory=ClientTls)


def read_config(additional_config: Any, environ: Mapping[str, str]) -> TapConfig | RowLogConfig | None:
    """The tap's configuration, or None when there is none.

    Args:
        additional_config: vLLM's `additional_config`; its key ``featurewatch`` goes before the environment.
        environ: `FEATUREWATCH_SIDECAR` or `FEATUREWATCH_RECORD_TO`, `FEATUREWATCH_HOOK_POINTS` (comma separated),
            `FEATUREWATCH_ALLOW_UNPROVEN_ENGINE` (``1``). Files of TLS that the key does not name are taken from
            `FEATUREWATCH_TLS_CA`, `FEATUREWATCH_TLS_CERT` and `FEATUREWATCH_TLS_KEY`.

    Raises:
        FeaturewatchError: a setting is missing, unknown or malformed.
    """
    if isinstance(additional_config, Mapping) and ADDITIONAL_CONFIG_KEY in additional_config:
        return _from_mapping(additional_config[ADDITIONAL_CONFIG_KEY], environ)
    settings: dict[str, Any] = {}
    if environ.get(ENV_SIDECAR):
        settings["sidecar"] = environ[ENV_SIDECAR]
    if environ.get(ENV_RECORD_TO):
        settings["record_to"] = environ[ENV_RECORD_TO]
    if environ.get(ENV_HOOK_POINTS):
        settings["hook_points"] = [name for name in environ[ENV_HOOK_POINTS].split(",") if name.strip()]
    if not settings:
        return None
    settings["allow_unproven_engine"] = environ.get(ENV_ALLOW_UNPROVEN, "0") in ("1", "true")
    return _from_mapping(settings, environ, source=f"environment ({ENV_SIDECAR}, {ENV_HOOK_POINTS})")


def _from_mapping(
    settings: Any, environ: Mapping[str, str], source: str = "additional_config.featurewatch"
) -> TapConfig | RowLogConfig:
    if not isinstance(settings, Mapping):
        raise FeaturewatchError(f"{source} of type {type(settings).__name__}", "it must be a JSON object", EXAMPLE)
    for key in settings:
        if key not in _KNOWN:
            near = difflib.get_close_matches(str(key), _KNOWN, n=1, cutoff=0.5)
            raise FeaturewatchError(
                f"setting {key!r} in {source}",
                f"known settings are {', '.join(_KNOWN)}",
                f"did you mean {near[0]!r}" if near else "remove it",
            )
    needed = "record_to" if "record_to" in settings else "sidecar"
    for key in (needed, "hook_points"):
        if not settings.get(key):
            raise FeaturewatchError(f"{source} without {key}", f"the tap needs {needed} and hook_points", EXAMPLE)
    if needed == "record_to":
        return row_log_config(settings, source)
    if "record_mib" in settings:
        raise FeaturewatchError(
            f"record_mib {settings['record_mib']!r} without record_to in {source}",
            "it bounds what a tap records into a folder; recorder_mib bounds the flight recorder",
            "write recorder_mib, or remove it",
        )
    if not isinstance(settings["sidecar"], str):
        raise FeaturewatchError(f"sidecar {settings['sidecar']!r} in {source}", "it must be a string", EXAMPLE)
    sidecar = Target.parse(settings["sidecar"])
    return TapConfig(
        sidecar=sidecar,
        hook_points=hook_points_in(settings, source),
        allow_unproven_engine=allows_unproven(settings, source),
        queue_frames=whole_number(
            settings, "queue_frames", source, low=8, high=1_000_000, default=TapConfig.queue_frames
        ),
        queue_mib=whole_number(settings, "queue_mib", source, low=1, high=65_536, default=TapConfig.queue_mib),
        recorder_mib=whole_number(settings, "recorder_mib", source, low=0, high=65_536, default=TapConfig.recorder_mib),
        tls=_tls(settings, sidecar, environ, source),
    )


def _tls(settings: Mapping[str, Any], sidecar: Target, environ: Mapping[str, str], source: str) -> ClientTls:
    given = {key: settings[key] for key in _TLS if key in settings}
    for key, value in given.items():
        if not isinstance(value, str) or not value:
            raise FeaturewatchError(f"{key} {value!r} in {source}", "it is the path of a PEM file", "name the file")
        if not sidecar.tls:
            raise FeaturewatchError(
                f"{key} {value!r} in {source} with sidecar {sidecar}",
                "that address is reached without TLS",
                'write "sidecar": "tls:host:port", or leave the TLS settings out',
            )
    if not sidecar.tls:
        return ClientTls()
    found = ClientTls.from_environ(environ)
    own = found if "tls_cert" not in given and "tls_key" not in given else _own(given)
    return ClientTls(Path(given["tls_ca"]) if "tls_ca" in given else found.ca, own.cert, own.key)


def _own(given: Mapping[str, str]) -> ClientTls:
    cert, key = (Path(given[name]) if name in given else None for name in ("tls_cert", "tls_key"))
    return ClientTls(cert=cert, key=key)
