"""The sidecar that `policy calibrate` starts beside vLLM knows what production's would know."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from calibration_samples import POLICY, policy

from monitor.cli.calibration import vllm_engine
from monitor.cli.calibration.texts import Sample
from monitor.errors import FeaturewatchError


def test_it_knows_the_tokenizer(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The engine is started without one: the chat template's tokens would be judged as content."""
    monkeypatch.setattr(vllm_engine, "Child", lambda _what, command, _log: command)
    subject: Any = SimpleNamespace(policy=SimpleNamespace(file="p.yaml", name="p"))
    command: Any = vllm_engine._start_sidecar(subject, tmp_path, tmp_path / "store", [], "model-folder")
    assert command[command.index("--tokenizer") + 1] == "model-folder"
    assert command[command.index("--mode") + 1] == "p=shadow"
    assert command[command.index("--keep-share") + 1] == "1"


@pytest.mark.parametrize("match", ['{tenants: ["acme-*"]}', "{sample: 0.5}"])
def test_a_policy_that_would_not_judge_every_text_is_refused(match: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it does not judge would count as not flagged."""
    monkeypatch.setattr(vllm_engine.importlib.util, "find_spec", lambda _: object())
    narrow: Any = SimpleNamespace(policy=policy(text=POLICY.replace("  detectors:", f"  match: {match}\n  detectors:")))
    with pytest.raises(FeaturewatchError, match=r"policy toy with match\.tenants .* and --engine vllm"):
        served(narrow)


def test_one_that_judges_them_all_is_not_refused_for_that(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm_engine.importlib.util, "find_spec", lambda _: object())
    subject: Any = SimpleNamespace(policy=policy())
    # What is asked next.
    with pytest.raises(FeaturewatchError, match="1 texts with a response and --engine vllm"):
        served(subject, Sample("name", "a", "b", False, "", ""))


def served(subject: Any, *samples: Sample) -> None:
    vllm_engine.run_vllm(subject, samples, "tiny", dtype="auto", context=8, max_tokens=1, engine_args={}, zoo=())
