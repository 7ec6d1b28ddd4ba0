"""The sidecar that `policy calibrate` starts beside vLLM knows what production's would know."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from monitor.cli.calibration import vllm_engine


def test_it_knows_the_tokenizer(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The engine is started without one: the chat template's tokens would be judged as content."""
    monkeypatch.setattr(vllm_engine, "Child", lambda _what, command, _log: command)
    subject: Any = SimpleNamespace(policy=SimpleNamespace(file="p.yaml", name="p"))
    command: Any = vllm_engine._start_sidecar(subject, tmp_path, tmp_path / "store", [], "model-folder")
    assert command[command.index("--tokenizer") + 1] == "model-folder"
    assert command[command.index("--mode") + 1] == "p=shadow"
    assert command[command.index("--keep-share") + 1] == "1"
