"""Texts to calibrate on: what is read, what is left out, what is refused."""

from __future__ import annotations

import gzip
import hashlib
import json
from pathlib import Path

import pytest

from monitor.cli.calibration.texts import data_name, read_texts
from monitor.errors import FeaturewatchError


def write(path: Path, *rows: object) -> Path:
    text = "".join(json.dumps(row) + "\n" for row in rows)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def test_rows_become_samples(tmp_path: Path) -> None:
    data = write(
        tmp_path / "both.jsonl.gz",
        {"text": "a", "label": 0, "source": "s", "split": "val"},
        {"prompt": "b", "response": "c", "label": 1, "category": "k", "split": "val"},
        {"text": "d", "label": 0, "split": "train"},
        {"text": " ", "label": 0, "split": "val"},
        {"text": "a", "label": 0, "split": "val"},
        {"text": "e", "label": 0, "split": "val"},
        {"text": "e", "label": 1, "split": "val"},
    )
    found = read_texts([data], [], [], split="val")
    assert [(s.prompt, s.response, s.is_harmful, s.source, s.category) for s in found.samples] == [
        ("a", None, False, "s", ""),
        ("b", "c", True, "both", "k"),
    ]
    assert found.samples[1].name == f"{data}:2"
    assert found.left_out == {"not of split val": 1, "empty": 1, "given twice": 1, "given with both labels": 2}
    digest = hashlib.sha256(data.read_bytes()).hexdigest()
    assert found.benign == found.harmful == f"both.jsonl.gz (split val)@sha256:{digest}"


def test_files_without_labels(tmp_path: Path) -> None:
    good = write(tmp_path / "good.jsonl", {"text": "a"}, {"text": "b"})
    found = read_texts([], [good], [], split="")
    assert [sample.is_harmful for sample in found.samples] == [False, False]
    assert found.harmful is None
    bad = write(tmp_path / "bad.jsonl", {"text": "c"})
    both = read_texts([], [good], [bad])
    assert both.harmful == data_name([bad])
    assert [sample.is_harmful for sample in both.samples] == [False, False, True]


def test_benign_texts_of_the_training_split_are_told(tmp_path: Path) -> None:
    """What a probe was fitted on is no sample of new text."""
    rows = [{"text": str(number), "label": 0, "split": split} for number, split in enumerate(("train", "val", "train"))]
    data = write(tmp_path / "a.jsonl", *rows, {"text": "bad", "label": 1, "split": "train"})
    (note,) = read_texts([data], [], []).notes
    assert note.startswith("2 of 3 benign texts are given with split train")
    assert read_texts([data], [], [], split="val").notes == ()


def test_a_text_of_the_training_split_is_one_wherever_else_it_is(tmp_path: Path) -> None:
    rows = [{"text": text, "label": 0, "split": split} for text, split in (("a", "val"), ("a", "train"), ("b", "val"))]
    data = write(tmp_path / "a.jsonl", *rows)
    for split in ("", "val"):
        (note,) = read_texts([data], [], [], split=split).notes
        assert note.startswith("1 of 2 benign texts are given with split train")


def test_a_limit_takes_the_same_texts_whatever_their_order(tmp_path: Path) -> None:
    rows = [{"text": f"text {number}", "label": number % 2} for number in range(50)]
    one = read_texts([write(tmp_path / "a.jsonl", *rows)], [], [], limit=7)
    other = read_texts([write(tmp_path / "b.jsonl", *rows[::-1])], [], [], limit=7)
    assert {sample.prompt for sample in one.samples} == {sample.prompt for sample in other.samples}
    assert sum(sample.is_harmful for sample in one.samples) == 7 == len(one.samples) / 2
    assert one.left_out == {"over --limit": 36}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"text": "a"}, "with label None: in a file of --data each row has a label"),
        ({"text": "a", "label": True}, "with label True"),
        ({"text": "a", "label": "1"}, "with label '1'"),
        ({"label": 1}, "with label: each row needs a string text"),
        ({"text": 5, "label": 1}, "each row needs a string text"),
        ({"text": "a", "response": 5, "label": 1}, "each row needs a string text"),
        ({"text": "\ud800", "label": 1}, "half of a surrogate pair"),
        ({"text": " ", "label": 1}, r"none is left \(1 empty\)"),
    ],
)
def test_bad_rows_are_named(tmp_path: Path, row: dict[str, object], message: str) -> None:
    with pytest.raises(FeaturewatchError, match=message):
        read_texts([write(tmp_path / "x.jsonl", row)], [], [])


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FeaturewatchError, match="there is no such file"):
        read_texts([tmp_path / "none.jsonl"], [], [])


def test_several_files_have_one_hash(tmp_path: Path) -> None:
    first, second = write(tmp_path / "a.jsonl", {"text": "a"}), write(tmp_path / "b.jsonl", {"text": "b"})
    digest = hashlib.sha256(first.read_bytes() + second.read_bytes()).hexdigest()
    assert data_name([first, second], " (split val)") == f"a.jsonl + b.jsonl (split val)@sha256:{digest}"
