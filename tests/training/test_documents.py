"""Data files as documents, and what is said of files that are damaged."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from monitor.errors import FeaturewatchError
from training.harvest.documents import read_documents


@pytest.mark.parametrize("name", ["c.txt", "C.TXT", "c.txt.gz", "C.TXT.GZ"])
def test_a_text_file_is_known_by_its_suffix_in_any_case(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    text = b"boats carry bread"
    path.write_bytes(gzip.compress(text) if name.lower().endswith(".gz") else text)
    assert [document.text for document in read_documents([path])] == ["boats carry bread"]


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl"])
def test_a_file_that_is_not_utf8_is_told(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes('{"text": "caf\u00e9"}'.encode("latin-1"))
    with pytest.raises(FeaturewatchError, match=rf"data file .*{name} .*it must be UTF-8 text"):
        list(read_documents([path]))


@pytest.mark.parametrize("name", ["a.txt.gz", "a.jsonl.gz"])
@pytest.mark.parametrize("damage", ["cut", "changed"])
def test_a_damaged_archive_is_told(tmp_path: Path, name: str, damage: str) -> None:
    whole = gzip.compress(b'{"text": "boats carry bread"}\n' * 50)
    (tmp_path / name).write_bytes(whole[:20] if damage == "cut" else whole[:10] + b"\xff" * 8 + whole[18:])
    with pytest.raises(FeaturewatchError, match=r"whole and, with \.gz, gzipped"):
        list(read_documents([tmp_path / name]))
