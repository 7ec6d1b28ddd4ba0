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

ADDITIONAL_CONFIG_KEY: Final = "featurewatch"
ENV_SIDECAR: Final = "FEATUREWATCH_SIDECAR"
ENV_HOOK_POINTS: Final = "FEATUREWATCH_HOOK_POINTS"
ENV_ALLOW_UNPROVEN: Final = "FEATUREWATCH_ALLOW_UNPROVEN_ENGINE"
ENV_RECORD_TO: Final = "FEATUREWATCH_RECORD_TO"

_EXAMPLE: Final = (
    'write --additional-config \'{"featurewatch": {"sidecar": "unix:/run/fw.sock", "hook_points": ["resid_post.14"]}}\''
)
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
_WITH_RECORD_TO: Final = ("hook_points", "allow_unproven_engine", "record_to", "record_mib")


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


def _from_mapping(
    settings: Any, environ: Mapping[str, str], source: str = "additional_config.featurewatch"
) -> TapConfig | RowLogConfig:
    if not isinstance(settings, Mapping):
        raise FeaturewatchError(f"{source} of type {type(settings).__name__}", "it must be a JSON object", _EXAMPLE)
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
            raise FeaturewatchError(f"{source} without {key}", f"the tap needs {needed} and hook_points", _EXAMPLE)
    if needed == "record_to":
        return _row_log(settings, source)
    if not isinstance(settings["sidecar"], str):
        raise FeaturewatchError(f"sidecar {settings['sidecar']!r} in {source}", "it must be a string", _EXAMPLE)
    sidecar = Target.parse(settings["sidecar"])
    return TapConfig(
        sidecar=sidecar,
        hook_points=_hook_points(settings, source),
        allow_unproven_engine=_allow(settings, source),
        queue_frames=_whole(settings, "queue_frames", source, low=8, high=1_000_000),
        queue_mib=_whole(settings, "queue_mib", source, low=1, high=65_536),
        recorder_mib=_whole(settings, "recorder_mib", source, low=0, high=65_536),
        tls=_tls(settings, sidecar, environ, source),
    )


def _row_log(settings: Mapping[str, Any], source: str) -> RowLogConfig:
    beside = [key for key in settings if key not in _WITH_RECORD_TO]
    if beside:
        raise FeaturewatchError(
            f"record_to in {source} beside {', '.join(beside)}",
            "a tap that records rows into a folder may slow the engine and tells no sidecar; beside it go "
            + ", ".join(key for key in _WITH_RECORD_TO if key != "record_to"),
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
        hook_points=_hook_points(settings, source),
        allow_unproven_engine=_allow(settings, source),
        record_mib=_whole(settings, "record_mib", source, low=1, high=1_048_576, of=RowLogConfig),
    )


def _hook_points(settings: Mapping[str, Any], source: str) -> tuple[HookPoint, ...]:
    names = settings["hook_points"]
    if not isinstance(names, (list, tuple)) or not all(isinstance(name, str) for name in names):
        raise FeaturewatchError(f"hook_points {names!r} in {source}", "it must be a list of strings", _EXAMPLE)
    return tuple(sorted({_tapped(name) for name in names}))


def _allow(settings: Mapping[str, Any], source: str) -> bool:
    allow = settings.get("allow_unproven_engine", False)
    if not isinstance(allow, bool):
        raise FeaturewatchError(
            f"allow_unproven_engine {allow!r} in {source}", "it is true or false", "write true without quotes"
        )
    return allow


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


def _whole(settings: Mapping[str, Any], key: str, source: str, *, low: int, high: int, of: type = TapConfig) -> int:
    default = int(getattr(of, key))
    value = settings.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise FeaturewatchError(
            f"{key} {value!r} in {source}", f"it is a whole number from {low} to {high}", f"the default is {default}"
        )
    return value
