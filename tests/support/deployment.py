"""Questions to a running deployment."""

from __future__ import annotations

import grpc

from monitor.cli.demo.servers import Setting, sidecar_ready
from monitor.cli.demo.watch import SidecarView


def connected(setting: Setting) -> bool:
    """True when the sidecar serves and the tap speaks to it."""
    if not sidecar_ready(setting.target):
        return False
    with SidecarView(setting.target, lambda _: None) as view:
        try:
            return view.tap_connected()
        except grpc.RpcError:
            return False
