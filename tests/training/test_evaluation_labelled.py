"""What is said of labelled files that hold too few texts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from monitor.errors import FeaturewatchError
from training.evaluation.config import EvalConfig
from training.evaluation.labelled import read_labelled
from training.harvest.loading import load_tokenizer


def _file(path: Path, counts: dict[tuple[str, int], int]) -> Path:
    rows = [
        {"text": f"bread {split} {label} {number}", "label": label, "split": split, "source": "a"}
        for (split, label), count in counts.items()
        for number in range(count)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def _refusal(path: Path, model: Path, **settings: int) -> str:
    with pytest.raises(FeaturewatchError) as told:
        read_labelled(path, load_tokenizer(str(model)), EvalConfig(str(model), (Path("x"),), **settings))
    return str(told.value)


def test_a_file_without_text_is_told_as_such(tmp_path: Path, tiny_model: Path) -> None:
    path = tmp_path / "empty.jsonl"
    for content in ("", "\n\n", json.dumps({"text": "  ", "label": 1, "split": "val"})):
        path.write_text(content)
        text = _refusal(path, tiny_model)
        assert text.startswith(f"labelled file {path}: it holds no text. Give rows with text, label")


def test_too_few_texts_of_a_file_and_of_those_that_were_drawn(tmp_path: Path, tiny_model: Path) -> None:
    counts = {("train", 0): 6, ("train", 1): 6, ("val", 0): 6, ("val", 1): 6}
    path = _file(tmp_path / "a.jsonl", counts | {("val", 1): 4})
    text = _refusal(path, tiny_model)
    assert "split val needs 5 texts with label 1 and holds 4" in text
    assert "probe-texts" not in text
    path = _file(tmp_path / "b.jsonl", counts | {("train", 0): 300})
    text = _refusal(path, tiny_model, probe_texts=20)
    assert "of the 20 texts that were drawn from its 318 it holds" in text
    assert "Raise --probe-texts" in text
    assert read_labelled(path, load_tokenizer(str(tiny_model)), EvalConfig(str(tiny_model), (path,))).sequences
