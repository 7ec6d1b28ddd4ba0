"""Fixtures of the audit's tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from monitor.audit import AuditStore


@pytest.fixture
def store(tmp_path: Path) -> AuditStore:
    return AuditStore(tmp_path / "deep" / "audit.sqlite")
