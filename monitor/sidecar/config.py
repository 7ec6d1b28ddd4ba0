"""Everything a sidecar is started with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from monitor.policy import Mode
from monitor.rpc import ServerTls, Target
from monitor.sidecar.policy_watch import WATCH_SECONDS


@dataclass(frozen=True)
class RedisConfig:
    """Where alerts go besides watchers and file.

    Attributes:
        url: e.g. ``redis://127.0.0.1:6379/0``.
        stream: key of the stream.
        spool: file in which events wait while Redis is away.
    """

    url: str
    stream: str
    spool: Path


@dataclass(frozen=True)
class SidecarConfig:
    """Attributes:

    listen: addresses; at least one.
    policies: files and folders of policies.
    zoo: folders below which SAEs are looked up.
    store: SQLite file of flagged generations.
    tokenizer: folder that overrides the one the tap names.
    alerts_jsonl: file that alerts are appended to.
    history_mib: memory for token ids and scores of live requests.
    prefix_state_mib: memory for detector state of token prefixes; 0 keeps none.
    metrics: TCP address of /metrics and /healthz; None serves neither.
    tls: certificate and key for `tls:` addresses.
    insecure_tcp: permits TCP addresses without TLS that other machines can reach.
    drain_seconds: longest wait for open calls at shutdown.
    tap_grace_seconds: how long a tap that went away keeps its state.
    modes: by policy, in the place of the mode in its file.
    keep_share: share of all generations that is recorded although nothing flags them, without content.
    watch_seconds: how often policy files are looked at for changes; None: never.
    """

    listen: tuple[Target, ...]
    policies: tuple[Path, ...]
    zoo: tuple[Path, ...]
    store: Path
    tokenizer: Path | None = None
    alerts_jsonl: Path | None = None
    redis: RedisConfig | None = None
    history_mib: int = 64
    prefix_state_mib: int = 64
    metrics: Target | None = None
    tls: ServerTls | None = None
    insecure_tcp: bool = False
    drain_seconds: float = 5.0
    tap_grace_seconds: float = 60.0
    modes: Mapping[str, Mode] = field(default_factory=dict)
    keep_share: float = 0.0
    watch_seconds: float | None = WATCH_SECONDS
