"""The CUDA ring's places and indices, on the host with CUDA's streams and events replaced: no GPU takes part, so what
is asynchronous is not proven here."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from monitor.sae import HookPoint
from monitor.tap.recorder.ring import CudaRing, HostRing
from monitor.tap.sites import Site

ROWS, WIDTH = 8, 5


@pytest.fixture
def no_cuda(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the ring asked of CUDA, in order."""
    asked: list[str] = []
    stream = SimpleNamespace(
        wait_event=lambda event: asked.append("wait for the writer"), synchronize=lambda: asked.append("synchronize")
    )
    monkeypatch.setattr(torch.cuda, "Stream", lambda **_: stream)
    monkeypatch.setattr(torch.cuda, "Event", lambda: SimpleNamespace(record=lambda on: asked.append("written")))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: "the engine's")
    monkeypatch.setattr(torch.cuda, "stream", lambda on: nullcontext())
    original = torch.zeros

    def zeros(*shape: int, pin_memory: bool = False, **more: Any) -> torch.Tensor:
        assert not (pin_memory and "device" in more)
        return original(*shape, **more)

    monkeypatch.setattr(torch, "zeros", zeros)
    return asked


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_holds_what_the_hosts_ring_holds(dtype: torch.dtype, no_cuda: list[str]) -> None:
    fired = torch.zeros(1, dtype=torch.int64)
    sites = [Site(HookPoint(i), torch.randn(ROWS, WIDTH).to(dtype), fired, "", None) for i in range(2)]
    rings = CudaRing(sites, 6, 4), HostRing(sites, 6)
    for ring in rings:
        ring.write(4, 1, 2)
        ring.write(0, 3, 3)
    for hook in range(2):
        slots_n = np.array([4, 5, 0, 2])
        on_device, on_host = (ring.read(hook, slots_n) for ring in rings)
        assert on_device.shape == (4, rings[0].row_bytes)
        assert on_device.tobytes() == on_host.tobytes()
    assert no_cuda == ["written", "written", *["wait for the writer", "synchronize"] * 2]
