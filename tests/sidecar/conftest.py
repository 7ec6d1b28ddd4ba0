"""Fixtures of the sidecar's tests."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from evidence_kit import CAPTURING
from sidecar_kit import ENGINE, HOOKS, World, build_world

from monitor.sae import Catalog
from monitor.sidecar.plan import TapPlan, plan_for_tap
from monitor.sidecar.policy_book import PolicyBook


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    # Socket paths are limited to 107 bytes; pytest's own folders can be longer.
    with tempfile.TemporaryDirectory(prefix="fw-") as sockets:
        yield build_world(tmp_path, Path(sockets) / "s.sock")


@pytest.fixture
def capturing(world: World) -> World:
    """One whose policy `loud` asks for a capture."""
    (world.policies / "loud.yaml").write_text(CAPTURING)
    return world


@pytest.fixture(scope="module")
def plan() -> TapPlan:
    """The policies of the world as a tap of its engine serves them."""
    with tempfile.TemporaryDirectory() as folder:
        world = build_world(Path(folder), Path(folder) / "unused")
        book = PolicyBook.load([world.policies], Catalog([world.zoo]))
        return plan_for_tap(book, ENGINE, HOOKS, version=1)
