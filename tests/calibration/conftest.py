"""Fixtures of the tests of calibrations."""

from __future__ import annotations

from pathlib import Path

import pytest
from calibration_records import write_policy


@pytest.fixture
def policy_file(tmp_path: Path) -> Path:
    """A policy of one dense probe that was never calibrated."""
    return write_policy(tmp_path)
