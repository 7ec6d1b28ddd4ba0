"""`featurewatch audit` without a sidecar: the store is read, also when a killed sidecar left its socket behind."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from monitor.audit import AuditStore
from monitor.v1.generations_pb2 import GenerationRecord, GenerationSummary


@pytest.fixture
def home() -> Iterator[Path]:
    # Socket paths are limited to 107 bytes; pytest's own folders can be longer.
    with tempfile.TemporaryDirectory(prefix="fw-") as folder:
        yield Path(folder)


def audit(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "monitor.cli.main", "audit", *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "FEATUREWATCH_HOME": str(home), "COLUMNS": "200"},
        check=False,
    )


def leave_socket(home: Path) -> None:
    """As a sidecar that was killed: the file is there, nobody listens."""
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(home / "sidecar.sock"))


@pytest.mark.parametrize("killed", [True, False])
def test_the_store_is_read_when_no_sidecar_answers(home: Path, killed: bool) -> None:
    store = AuditStore(home / "audit.sqlite")
    store.put(GenerationRecord(summary=GenerationSummary(generation_id="gen-1", external_id="req-1")))
    store.close()
    if killed:
        leave_socket(home)
    for command in (("list",), ("show", "gen-1")):
        result = audit(home, *command)
        assert result.returncode == 0, result.stderr
        assert "req-1" in result.stdout
        assert f"No sidecar at unix:{home}/sidecar.sock; reading {home}/audit.sqlite." in result.stderr


def test_without_a_store_too_the_error_tells_both_ways_out(home: Path) -> None:
    leave_socket(home)
    for command in (("list",), ("show", "gen-1"), ("list", "--sidecar", f"unix:{home}/sidecar.sock")):
        result = audit(home, *command)
        assert result.returncode == 2
        assert "nothing answers there" in result.stderr
        assert "--sidecar" in result.stderr
        assert "--store FILE" in result.stderr
