"""The demo as a user runs it: a real vLLM, the real model, the real sidecar."""

import json
import os
import re
import sqlite3
import subprocess
import sys

import pytest

from monitor.cli.demo.prompts import PROMPTS
from training.models import featurewatch_home

pytestmark = [pytest.mark.engine, pytest.mark.model]


def test_the_demo_serves_judges_alerts_and_audits() -> None:
    result = subprocess.run(
        [sys.executable, "-m", "monitor.cli.main", "demo", "--max-tokens", "12"],
        capture_output=True,
        text=True,
        env={**os.environ, "COLUMNS": "160"},
        check=False,
        timeout=400,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    table = result.stdout.partition("All generations")[2].partition("flagged")[0]
    for prompt in PROMPTS:
        assert f" {prompt.text[:20]}" in table
    coverage = [(int(seen), int(positions)) for seen, positions in re.findall(r" (\d+)/(\d+)\s*\n", table)]
    assert len(coverage) == len(PROMPTS) >= 16
    assert all(0 < seen <= positions for seen, positions in coverage)
    assert "audit show" in result.stdout

    folder = featurewatch_home() / "demo"
    alerts = [json.loads(line) for line in (folder / "alerts.jsonl").read_text().splitlines()]
    assert alerts
    with sqlite3.connect(folder / "audit.sqlite") as store:
        tables = {name for (name,) in store.execute("select name from sqlite_master where type = 'table'")}
        counts = {name: store.execute(f"select count(*) from {name}").fetchone()[0] for name in tables}
    assert max(counts.values()) >= 1
