"""Fixtures of the tap's tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.stepped_engine import SteppedEngines


@pytest.fixture(scope="session")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SteppedEngines]:
    """Opens real engines, one after the other, in a process that all tests share. It starts with the first engine."""
    folder = tmp_path_factory.mktemp("engines")
    with SteppedEngines(folder, {"VLLM_CACHE_ROOT": str(folder / "cache")}) as opener:
        yield opener
