"""What is held out depends on source and document or on the text, and on nothing else."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from monitor.errors import FeaturewatchError
from training.harvest.config import HarvestConfig
from training.harvest.documents import Document, read_documents
from training.harvest.loading import load_tokenizer
from training.harvest.split import require_usable, without_shared_texts
from training.harvest.tokens import SequenceMaker

SHARE = 0.3


def _documents(count: int, **more: str) -> list[Document]:
    return [Document(f"text number {number}", **more) for number in range(count)]


def test_order_and_second_copies_move_nothing(tmp_path: Path) -> None:
    rows = [{"text": f"text {n % 60}", "source": f"s{n % 7}"} for n in range(120)]
    parts = []
    for name, ordered in (("a.jsonl", rows), ("b.jsonl", [*reversed(rows)]), ("c.jsonl", rows[:60])):
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in ordered))
        documents = list(read_documents([tmp_path / name]))
        parts.append({document.text for document in documents if document.is_held_out(SHARE)})
        assert not parts[-1] & {document.text for document in documents if not document.is_held_out(SHARE)}
    assert parts[0] == parts[1] == parts[2]
    assert 8 < len(parts[0]) < 30


def test_rows_without_a_document_are_split_as_the_zoo_was() -> None:
    """By 64 bits of the text's SHA-256. The cards of the zoo say so: changing it would make them untrue."""
    for document in _documents(200):
        digest = int.from_bytes(hashlib.sha256(document.text.encode()).digest()[:8], "big")
        assert document.is_held_out(0.03) == (digest % 1_000_003 < 30_000.09)


def test_passages_of_a_document_stay_together(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    rows = [{"text": f"passage {n}", "source": "s", "doc": n // 10, "part": f"p{n // 20}"} for n in range(600)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for field, size in (("doc", 10), ("part", 20)):
        held_out = [document.is_held_out(SHARE) for document in read_documents([path], document_field=field)]
        groups = {tuple(held_out[start : start + size]) for start in range(0, 600, size)}
        assert groups == {(True,) * size, (False,) * size}
    alone = [document.is_held_out(SHARE) for document in read_documents([path], document_field="")]
    assert len({tuple(alone[start : start + 10]) for start in range(0, 600, 10)}) > 2


def test_equal_document_names_of_two_sources_are_two_documents() -> None:
    held_out = {(s, d): Document("t", s, document=d).is_held_out(0.5) for s in "abcdefgh" for d in "01234567"}
    assert any(held_out["a", d] != held_out["b", d] for d in "01234567")


def test_a_row_with_an_empty_document_name_is_split_by_its_text(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"text": f"text {n}", "doc": None}) + "\n" for n in range(100)))
    held_out = [document.is_held_out(SHARE) for document in read_documents([path])]
    assert 10 < sum(held_out) < 60


def test_a_held_out_text_is_not_trained_on_under_another_name() -> None:
    documents = [Document("the same words", "s", document=str(n)) for n in range(40)] + _documents(40)
    assert len({document.is_held_out(SHARE) for document in documents[:40]}) == 2
    digests_n = np.array([document.digest for document in documents], np.uint64)
    held_out_n = np.array([document.is_held_out(SHARE) for document in documents])
    kept_n = without_shared_texts(digests_n, held_out_n)
    left = [documents[index] for index in kept_n]
    assert all(document.is_held_out(SHARE) for document in left if document.text == "the same words")
    assert sum(document.text != "the same words" for document in left) == 40
    assert sorted(kept_n.tolist()) == kept_n.tolist()


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ([], "none that is trained on has text"),
        (
            ["held out"],
            r"holds out the only document: none is left to train on\. Give more documents .a \.txt file is cut at",
        ),
        (["held out", "held out"], "holds out all of the 2 documents: none is left to train on"),
        (["trained on"], "holds out 0 of them with 0 usable sequences: two are needed"),
        (["trained on", "held out"], "holds out 1 of them with 1 usable sequence: two are needed"),
        (["trained on", "held out", "held out"], ""),
    ],
)
def test_too_little_text_is_told(tiny_model: Path, texts: list[str], message: str) -> None:
    config = HarvestConfig(model=str(tiny_model), data=(Path("unread"),), hook_points=("resid_post.1",))
    maker = SequenceMaker(load_tokenizer(str(tiny_model)), config)
    supply = {
        kind: [d for d in _documents(100) if d.is_held_out(SHARE) == (kind == "held out")]
        for kind in ("trained on", "held out")
    }
    documents = [supply[kind].pop() for kind in texts]
    if message:
        with pytest.raises(FeaturewatchError, match=message):
            require_usable(documents, maker, SHARE)
    else:
        require_usable(documents, maker, SHARE)
