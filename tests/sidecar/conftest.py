"""Fixtures of the sidecar's tests."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from sidecar_kit import World, build_world


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    # Socket paths are limited to 107 bytes; pytest's own folders can be longer.
    with tempfile.TemporaryDirectory(prefix="fw-") as sockets:
        yield build_world(tmp_path, Path(sockets) / "s.sock")
