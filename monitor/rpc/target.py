"""Where a sidecar listens: `unix:<path>`, `host:port`, or `tls:host:port`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from monitor.errors import FeaturewatchError

_HOST_PORT = re.compile(r"(\[[0-9A-Fa-f:.%]+\]|[^:\[\]/\s]+):([0-9]{1,5})")
# Linux keeps a socket path in 108 bytes including the final zero (man 7 unix).
_MAX_PATH_BYTES = 107
_LOOPBACK = re.compile(r"localhost|127\.[0-9.]+|\[::1\]")


@dataclass(frozen=True)
class Target:
    """One address. Exactly one of `path` and `host` is set.

    Attributes:
        path: absolute path of a Unix socket.
        host: name or address of a TCP listener; an IPv6 address in brackets.
        port: TCP port; 0 asks the system for a free one when listening.
        tls: the TCP connection is encrypted.
    """

    path: Path | None = None
    host: str = ""
    port: int = 0
    tls: bool = False

    @classmethod
    def parse(cls, text: str) -> Target:
        """Reads `unix:<path>` (made absolute), `host:port` or `tls:host:port`; raises FeaturewatchError."""
        if text.startswith("unix:"):
            name = text.removeprefix("unix:").removeprefix("//")
            if not name:
                raise _bad(text, "unix: must be followed by a path")
            path = Path(name).expanduser().absolute()
            length = len(bytes(path))
            if length > _MAX_PATH_BYTES:
                raise FeaturewatchError(
                    f"socket path {path} of {length} bytes",
                    f"the system allows a Unix socket path at most {_MAX_PATH_BYTES} bytes",
                    "use a shorter path, for example below /tmp or /run",
                )
            return cls(path=path)
        tls = text.startswith("tls:")
        match = _HOST_PORT.fullmatch(text.removeprefix("tls:"))
        if match is None:
            raise _bad(text, "an address is written unix:<path>, host:port or tls:host:port")
        port = int(match.group(2))
        if port > 65535:
            raise _bad(text, f"port {port} is above 65535")
        return cls(host=match.group(1), port=port, tls=tls)

    @property
    def is_unix(self) -> bool:
        return self.path is not None

    @property
    def is_loopback(self) -> bool:
        """True for a Unix socket and for a TCP address that only this machine can reach."""
        return self.is_unix or _LOOPBACK.fullmatch(self.host) is not None

    @property
    def grpc(self) -> str:
        """The address as gRPC wants it."""
        return str(self).removeprefix("tls:")

    def __str__(self) -> str:
        if self.path is not None:
            return f"unix:{self.path}"
        return f"{'tls:' if self.tls else ''}{self.host}:{self.port}"


def _bad(text: str, rule: str) -> FeaturewatchError:
    return FeaturewatchError(f"address {text!r}", rule, "write for example unix:/run/fw.sock or 127.0.0.1:7710")
