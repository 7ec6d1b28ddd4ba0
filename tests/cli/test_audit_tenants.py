"""`featurewatch audit list` by tenant."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from monitor.audit import AuditStore
from monitor.cli import audit_reader
from monitor.cli.audit_reader import StoreReader
from monitor.cli.main import app
from monitor.v1.generations_pb2 import GenerationRecord, GenerationSummary

TENANTS = ("acme", "", "zoo", "acme-eu", "\x1b[31mred", "acme")


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Generations 0 to 5, the last one the newest."""
    path = tmp_path / "audit.sqlite"
    written = AuditStore(path)
    for number, tenant in enumerate(TENANTS):
        summary = GenerationSummary(
            generation_id=f"gen-{number}", external_id=f"req-{number}", start_unix_nanos=number + 1, tenant=tenant
        )
        written.put(GenerationRecord(summary=summary))
    written.close()
    return path


@pytest.mark.parametrize(
    ("pattern", "limit", "found"),
    [
        ("", 4, [5, 4, 3, 2]),
        ("acme", 50, [5, 0]),
        ("acme*", 50, [5, 3, 0]),
        ("acme*", 2, [5, 3]),
        # Not those of requests that name none.
        ("*", 50, [5, 4, 3, 2, 0]),
        ("none", 50, []),
    ],
)
def test_a_pattern_finds_the_newest_of_its_tenants_over_all_pages(
    store: Path, monkeypatch: pytest.MonkeyPatch, pattern: str, limit: int, found: list[int]
) -> None:
    monkeypatch.setattr(audit_reader, "_LARGEST_PAGE", 2)
    opened = AuditStore(store, read_only=True)
    summaries = StoreReader(opened).summaries(limit, unflagged=False, tenant=pattern)
    opened.close()
    assert [summary.generation_id for summary in summaries] == [f"gen-{number}" for number in found]


def test_the_list_shows_tenants_and_none_of_them_steers_the_terminal(store: Path) -> None:
    run = CliRunner().invoke(app, ["audit", "list", "--store", str(store)], env={"COLUMNS": "160"})
    assert run.exit_code == 0
    assert "acme-eu" in run.stdout
    assert "\x1b[31m" not in run.stdout
    chosen = CliRunner().invoke(app, ["audit", "list", "--store", str(store), "--tenant", "zoo"])
    assert ("req-2" in chosen.stdout, "req-0" in chosen.stdout) == (True, False)
    nobody = CliRunner().invoke(app, ["audit", "list", "--store", str(store), "--tenant", "none"])
    assert "No such generation of a tenant that the pattern fits." in nobody.stdout
