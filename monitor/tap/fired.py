"""Whether the operation of each hook point ran in a step, told from counters that stay on the device."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from monitor.tap.sites import Site


class HooksSilentError(RuntimeError):
    """The operation of a hook point did not run in a forward pass: its buffer holds an earlier pass's rows."""


class FiredCounters:
    """The hook points' counters before and after a step; the engine's thread never waits for them."""

    def __init__(self, sites: Sequence[Site]) -> None:
        self._sites = sites
        self.names = [str(site.hook_point) for site in sites]
        self.mark()

    def mark(self) -> None:
        """A step begins."""
        self._before_h = self._read()

    def since_mark(self) -> torch.Tensor:
        """[2, h]: the counters at the mark and now, on the device."""
        return torch.stack([self._before_h, self._read()])

    def _read(self) -> torch.Tensor:
        return torch.cat([site.fired for site in self._sites])


def require_fired(names: Sequence[str], fired_2h: torch.Tensor) -> None:
    """Raises HooksSilentError for hook points whose counter did not move; `fired_2h` is on the host."""
    before_h, now_h = fired_2h.tolist()
    silent = [name for name, before, now in zip(names, before_h, now_h, strict=True) if now <= before]
    if silent:
        raise HooksSilentError(f"hook points {', '.join(silent)} did not run")
