"""Work that nobody waits for."""

from __future__ import annotations

import pytest
from sidecar_kit import World, running_sidecar

from monitor.sidecar.background import Background


async def _raises() -> None:
    raise RuntimeError("disk on fire")


async def test_what_fails_is_logged_counted_and_let_go(caplog: pytest.LogCaptureFixture) -> None:
    background = Background()
    background.start(_raises())
    await background.wait()
    assert (background.failed, len(background)) == (1, 0)
    assert "disk on fire" in caplog.text


async def test_the_metrics_of_a_sidecar_hear_of_it(world: World) -> None:
    async with running_sidecar(world.config()) as sidecar:
        assert "background work failed" not in sidecar.taps.problems()
        sidecar.taps._background.start(_raises())
        await sidecar.taps._background.wait()
        assert sidecar.taps.problems()["background work failed"] == 1
