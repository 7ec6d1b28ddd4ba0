"""The demo as a user runs it: a real vLLM, the real model, the real sidecar."""

import json
import os
import re
import subprocess
import sys

import pytest

from monitor.audit import AuditStore
from monitor.cli.demo.prompts import PROMPTS
from monitor.v1.generations_pb2 import GenerationRecord
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
    store = AuditStore(folder / "audit.sqlite", read_only=True)
    records = [store.get(summary.generation_id) for summary in store.page(100)]
    store.close()
    assert records
    assert "Evidence of" in result.stdout
    for record in records:
        assert record is not None
        require_evidence(record)


def require_evidence(record: GenerationRecord) -> None:
    """The rows around the trigger were captured, those before it too, and are the rows that were judged."""
    (evidence,) = record.evidence
    alert = record.alerts[0]
    assert evidence.reason == f"{alert.policy}/{alert.rule}"
    tokens = {token.position: token for token in evidence.tokens}
    coverage = record.summary.coverage
    assert len(tokens) + evidence.missing == coverage.observed
    assert any(position < alert.position for position in tokens)
    assert any(position > alert.position for position in tokens)
    trigger = tokens[alert.position]
    activations = dict(zip(trigger.latents, trigger.activations, strict=True))
    judged = {
        int(contribution.direction.rpartition("/")[2]): contribution.activation
        for reading in alert.readings
        for contribution in reading.contributions
        if contribution.direction.startswith(f"{evidence.sae}/")
    }
    both = judged.keys() & activations.keys()
    assert both
    assert {latent: activations[latent] for latent in both} == pytest.approx({n: judged[n] for n in both}, rel=1e-4)
