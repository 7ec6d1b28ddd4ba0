"""The text of an evaluation is drawn evenly, in bounded memory, whatever order the files have."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from monitor.errors import FeaturewatchError
from training.evaluation import text
from training.evaluation.config import EvalConfig
from training.evaluation.text import read_sequences
from training.harvest.documents import Document, read_documents
from training.harvest.loading import load_tokenizer
from training.harvest.tokens import Reason
from training.harvest.wanted import wanted_documents


def _corpus(path: Path, numbers: list[int]) -> Path:
    path.write_text("".join(json.dumps({"text": f"passage number {number} " + "x" * 90}) + "\n" for number in numbers))
    return path


def test_order_of_rows_changes_nothing_and_memory_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forward = _corpus(tmp_path / "a.jsonl", list(range(2000)))
    backward = _corpus(tmp_path / "b.jsonl", list(range(2000))[::-1])
    first, seen = text._drawn(EvalConfig(model="m", data=(forward,), tokens=100))
    second, _ = text._drawn(EvalConfig(model="m", data=(backward,), tokens=100))
    assert seen == 2000
    assert [document.text for document in first] == [document.text for document in second]
    assert 1600 <= sum(len(document.text) for document in first) <= 1600 + 120
    other, _ = text._drawn(EvalConfig(model="m", data=(forward,), tokens=100, seed=1))
    assert {document.text for document in other} != {document.text for document in first}
    monkeypatch.setattr(text, "_READ", 10)
    _, seen = text._drawn(EvalConfig(model="m", data=(forward,), tokens=100))
    assert 130 < seen < 170


def test_only_held_out_documents_where_a_share_is_given(tmp_path: Path) -> None:
    path = _corpus(tmp_path / "a.jsonl", list(range(300)))
    chosen, _ = text._drawn(EvalConfig(model="m", data=(path,), tokens=10_000, heldout_share=0.3))
    expected = {number for number in range(300) if Document(f"passage number {number} " + "x" * 90).is_held_out(0.3)}
    assert {int(document.text.split()[2]) for document in chosen} == expected
    assert 50 < len(expected) < 130


def test_sequences_end_when_there_are_enough_tokens(tmp_path: Path, tiny_model: Path) -> None:
    path = _corpus(tmp_path / "a.jsonl", list(range(300)))
    config = EvalConfig(model=str(tiny_model), data=(path,), tokens=1000, context=64, chat_share=0.0)
    sequences = read_sequences(config, load_tokenizer(str(tiny_model)), {})
    total = sum(len(sequence.token_ids_n) for sequence in sequences)
    assert 1000 <= total < 1064
    assert all(sequence.reasons_n[0] == Reason.BOS for sequence in sequences)


def test_no_held_out_document_is_told(tmp_path: Path, tiny_model: Path) -> None:
    config = EvalConfig(model="m", data=(_corpus(tmp_path / "a.jsonl", [1]),), heldout_share=0.001)
    with pytest.raises(FeaturewatchError, match=r"heldout-share 0\.001 of 1 documents: none of them is held out"):
        read_sequences(config, load_tokenizer(str(tiny_model)), {})


def test_fields_of_other_names(tmp_path: Path, tiny_model: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"body": f"passage {n} " * 9, "page": str(n % 20)}) + "\n" for n in range(200)))
    config = EvalConfig(str(tiny_model), (path,), heldout_share=0.4, text_field="body", document_field="page")
    chosen, seen = text._drawn(config)
    pages = {document.document for document in chosen}
    assert seen == 200
    assert 0 < len(pages) < 20
    assert len(chosen) == 10 * len(pages)
    harvest = text.harvest_config(config)
    assert list(wanted_documents(harvest)) == list(read_documents([path], "body", "page"))
    with pytest.raises(FeaturewatchError, match=r"a.jsonl:1 with fields body, page.*--text-field"):
        read_sequences(EvalConfig(str(tiny_model), (path,)), load_tokenizer(str(tiny_model)), {})
