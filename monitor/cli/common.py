"""What every sub-command shares: consoles, default places, model names."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from training.models.paths import featurewatch_home, resolve_model

__all__ = [
    "SIDECAR_HELP",
    "console",
    "default_policies",
    "default_socket",
    "default_zoo",
    "err_console",
    "home",
    "resolve_model",
]

SIDECAR_HELP = "unix:<path> or host:port; default: the sidecar of this user on this host."

console = Console()
err_console = Console(stderr=True)

_PROJECT = Path(__file__).resolve().parents[2]


def home() -> Path:
    """The user's featurewatch cache folder (see `training.models.paths.featurewatch_home`)."""
    return featurewatch_home()


def default_socket() -> str:
    """gRPC target of the sidecar on this host."""
    return f"unix:{home() / 'sidecar.sock'}"


def default_zoo() -> list[Path]:
    """Folders that are searched for SAEs: this checkout's and the user's."""
    return [path for path in (_PROJECT / "zoo", home() / "zoo") if path.is_dir()]


def default_policies() -> Path:
    """The policy folder of this checkout."""
    return _PROJECT / "policies"
