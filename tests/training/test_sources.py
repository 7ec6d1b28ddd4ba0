"""Text from every kind of source, and what is said of the bad ones."""

from __future__ import annotations

import gzip
import json
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow
import pytest
from huggingface_hub import HfApi
from pyarrow import parquet

from monitor.errors import FeaturewatchError
from training.harvest.config import HarvestConfig
from training.harvest.document_store import DocumentStore
from training.harvest.documents import Document, read_documents, shuffled_order
from training.harvest.sources import hub
from training.harvest.sources.hub import HubData
from training.harvest.sources.plain_text import read_passages
from training.harvest.wanted import data_sha256, wanted_documents

ROWS = [
    {"text": f"boats carry bread {number}", "source": "s", "category": "c", "licence": "CC0", "doc": number // 2}
    for number in range(6)
]
TALK = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "salt?"}]
SHARED = [{"from": "human", "value": "salt?"}, {"from": "gpt", "value": "here"}]
PARTS = [{"role": "user", "content": [{"type": "text", "text": "salt?"}, {"type": "image", "url": "u"}]}]


def _pack(path: Path, data: bytes) -> Path:
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(data))
    elif path.suffix == ".zst":
        with pyarrow.output_stream(str(path), compression="zstd") as file:
            file.write(data)
    else:
        path.write_bytes(data)
    return path


def _jsonl(rows: list[dict[str, object]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def _parquet(rows: list[dict[str, object]]) -> bytes:
    sink = pyarrow.BufferOutputStream()
    parquet.write_table(pyarrow.Table.from_pylist(rows), sink)
    return bytes(sink.getvalue())


@pytest.mark.parametrize("packing", ["", ".gz", ".zst"])
@pytest.mark.parametrize(("kind", "write"), [(".jsonl", _jsonl), (".parquet", _parquet)])
def test_rows_are_the_same_in_every_format(
    tmp_path: Path, kind: str, write: Callable[[list[dict[str, object]]], bytes], packing: str
) -> None:
    path = _pack(tmp_path / f"a{kind}{packing}", write(ROWS))
    wanted = [Document(str(row["text"]), "s", "c", "CC0", str(row["doc"])) for row in ROWS]
    assert list(read_documents([path])) == wanted
    assert list(read_documents([path], document_field="")) == [
        Document(document.text, "s", "c", "CC0") for document in wanted
    ]


@pytest.mark.parametrize("packing", ["", ".gz", ".zst"])
def test_text_files_give_the_same_passages_packed(tmp_path: Path, packing: str) -> None:
    text = "\n\n".join(f"paragraph {number} " * 20 for number in range(100))
    documents = list(read_documents([_pack(tmp_path / f"a.txt{packing}", text.encode())]))
    assert "\n\n".join(document.text for document in documents) == text
    assert all(len(document.text) >= 6000 for document in documents[:-1])


@pytest.mark.parametrize("text", ["", "\n\n", "a", "a\n\n\nb", "\n\n\n\na\n\nb\n", "a\r\n\r\nb"])
@pytest.mark.parametrize("chunk", [1, 2, 3, 100])
def test_paragraphs_do_not_depend_on_where_the_file_is_read_in_two(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, chunk: int
) -> None:
    monkeypatch.setattr("training.harvest.sources.plain_text._CHUNK", chunk)
    path = _pack(tmp_path / "a.txt", text.encode())
    assert "\n\n".join(read_passages(path, 0)).rstrip("\n") == text.replace("\r", "").rstrip("\n")
    assert next(read_passages(path, 10**9)) == text.replace("\r", "")


@pytest.mark.parametrize(
    ("row", "turns"),
    [
        ({"messages": TALK}, (("system", "be brief"), ("user", "salt?"))),
        ({"conversations": SHARED}, (("user", "salt?"), ("assistant", "here"))),
        ({"messages": PARTS}, (("user", "salt?"),)),
        ({"text": "plain", "messages": TALK}, ()),
        (
            {"text": None, "messages": [*TALK, {"role": "assistant", "content": None}]},
            (("system", "be brief"), ("user", "salt?")),
        ),
    ],
)
@pytest.mark.parametrize("kind", [".jsonl", ".parquet"])
def test_conversations(tmp_path: Path, row: dict[str, object], turns: tuple[tuple[str, str], ...], kind: str) -> None:
    path = _pack(tmp_path / f"a{kind}", _jsonl([row]) if kind == ".jsonl" else _parquet([row]))
    (document,) = read_documents([path])
    assert document.turns == turns
    assert document.text == ("plain" if not turns else "\n\n".join(text for _, text in turns))


def test_the_text_field_may_hold_the_turns(tmp_path: Path) -> None:
    path = _pack(tmp_path / "a.jsonl", _jsonl([{"talk": TALK, "text": "no"}]))
    (document,) = read_documents([path], "talk")
    assert document.turns[1] == ("user", "salt?")


@pytest.mark.parametrize(
    "row", [{"messages": "salt?"}, {"messages": [{"role": "user"}, "salt"]}, {"messages": [{"content": "salt"}]}, {}]
)
def test_rows_without_text_are_told_with_their_place(tmp_path: Path, row: dict[str, object]) -> None:
    path = _pack(tmp_path / "a.jsonl.zst", _jsonl([{"text": "salt"}, row]))
    with pytest.raises(FeaturewatchError, match=r"a\.jsonl\.zst:2 with fields .* a text in field 'text', or turns"):
        list(read_documents([path]))


def test_blank_rows_are_left_out_and_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = _pack(tmp_path / "a.jsonl", _jsonl([{"text": "salt"}, {"text": " "}, {"messages": []}, {"text": "bread"}]))
    assert [document.text for document in read_documents([path])] == ["salt", "bread"]
    assert [record.getMessage() for record in caplog.records] == [
        f"{path}: 2 rows without text are left out, the first is row 2"
    ]


@pytest.mark.parametrize("name", ["a.jsonl.zst", "a.txt.zst", "a.parquet", "a.parquet.zst", "a.parquet.gz", "a.txt.gz"])
@pytest.mark.parametrize("damage", ["cut", "changed", "other"])
def test_a_damaged_file_is_told_by_its_name(tmp_path: Path, name: str, damage: str) -> None:
    rows: list[dict[str, object]] = [{"text": f"boats carry bread {number * 7919 % 1000}"} for number in range(500)]
    path = _pack(tmp_path / name, _parquet(rows) if ".parquet" in name else _jsonl(rows))
    whole = path.read_bytes()
    damaged = {"cut": whole[: len(whole) // 2], "changed": whole[:8] + b"\xff" * 24 + whole[32:], "other": b"GIF89a;"}
    path.write_bytes(damaged[damage])
    if name == "a.parquet" and damage == "changed":
        path.write_bytes(whole[:-40] + b"\xff" * 30 + whole[-10:])
    with pytest.raises(FeaturewatchError, match=rf"data file .*{name} .*Fetch it again"):
        list(read_documents([path]))


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl.bz2", "a", "a.csv.gz"])
def test_another_format_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("text\nsalt\n")
    with pytest.raises(FeaturewatchError, match=rf"{name}: data are \.jsonl, \.parquet or \.txt files"):
        list(read_documents([tmp_path / name]))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "set").mkdir()
    _pack(tmp_path / "set" / "train.jsonl", _jsonl(ROWS))
    _pack(tmp_path / "set" / "test.jsonl", _jsonl([{"text": "held back"}]))
    return tmp_path / "set"


def test_a_data_set_is_streamed_from_a_folder(folder: Path) -> None:
    documents = list(read_documents([Path(f"hf:{folder}")]))
    assert [(document.text, document.document) for document in documents] == [
        (row["text"], str(row["doc"])) for row in ROWS
    ]
    assert [document.text for document in read_documents([Path(f"hf:{folder}:test")])] == ["held back"]
    assert [document.text for document in read_documents([Path(f"hf:{folder}:default:test")])] == ["held back"]


@pytest.mark.parametrize(
    ("text", "data"),
    [
        ("hf:a/b", HubData("a/b", "", "train")),
        ("hf:a/b:test", HubData("a/b", "", "test")),
        ("hf:a/b:en:test", HubData("a/b", "en", "test")),
    ],
)
def test_names_of_data_sets(text: str, data: HubData) -> None:
    assert HubData.parse(text) == data
    assert HubData.parse(str(data)) == data


@pytest.mark.parametrize("text", ["hf:", "hf:a/b:", "hf:a/b:en:", "hf:a:b:c:d"])
def test_a_bad_name_of_a_data_set_is_told(text: str) -> None:
    with pytest.raises(FeaturewatchError, match=r"is written hf:NAME, hf:NAME:SPLIT or hf:NAME:CONFIG:SPLIT"):
        HubData.parse(text)


@pytest.mark.parametrize(("behind", "named"), [(":nosplit", "nosplit"), (":noconfig:train", "noconfig")])
def test_a_split_or_configuration_that_is_not_there_is_told(folder: Path, behind: str, named: str) -> None:
    with pytest.raises(FeaturewatchError, match=rf"data set hf:.*{named}.*Check name, configuration and split"):
        list(read_documents([Path(f"hf:{folder}{behind}")]))


def test_a_hub_that_cannot_be_reached_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(self: HfApi, name: str) -> None:
        raise OSError("Name or service not known")

    monkeypatch.setattr(HfApi, "dataset_info", unreachable)
    hub._revision.cache_clear()
    with pytest.raises(
        FeaturewatchError, match=r"acme/none \(Name or service not known\).*check the network, or give a folder"
    ):
        list(read_documents([Path("hf:acme/none")]))
    with pytest.raises(FeaturewatchError, match="there is no such folder"):
        list(read_documents([Path("hf:/no/such/folder")]))


def _config(data: list[Path], **changes: object) -> HarvestConfig:
    return HarvestConfig(data=tuple(data), hook_points=("resid_post.0",), **changes)  # type: ignore[arg-type]


def test_data_are_known_by_content(folder: Path, tmp_path: Path) -> None:
    path = _pack(tmp_path / "a.jsonl", _jsonl(ROWS))
    same = _pack(tmp_path / "b.jsonl", _jsonl(ROWS))
    assert data_sha256(_config([path])) == data_sha256(_config([same])) != data_sha256(_config([path, same]))
    before = data_sha256(_config([Path(f"hf:{folder}")]))
    assert before != data_sha256(_config([Path(f"hf:{folder}:test")]))
    (folder / "train.jsonl").write_bytes(_jsonl(ROWS[:-1]))
    assert before != data_sha256(_config([Path(f"hf:{folder}")]))


def test_a_data_set_on_the_hub_is_known_by_its_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    commits = iter(["c1", "c2"])
    monkeypatch.setattr(hub, "_revision", lambda name: next(commits))
    config = _config([Path("hf:acme/texts")])
    assert data_sha256(config) != data_sha256(config)


def test_no_more_is_read_of_a_data_set_than_is_needed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = []

    def endless(data: HubData) -> Iterator[tuple[int, dict[str, object]]]:
        for number in range(10**9):
            read.append(number)
            yield number, {"text": "x" * 6000}

    monkeypatch.setattr("training.harvest.documents.read_hub", endless)
    path = Path(f"hf:{folder}")
    assert len(list(wanted_documents(_config([path], tokens=10_000, heldout_share=0.5)))) == 40  # 12 characters a token
    few = _config([path], tokens=10_000, heldout_share=0.5, windows_per_document=1, context=16)
    assert len(list(wanted_documents(few))) == 3750  # 64 characters of each
    assert len(list(wanted_documents(_config([path], documents=7)))) == 7
    assert len(read) == 40 + 3750 + 7


def test_files_are_read_whole_or_up_to_a_number_of_documents(tmp_path: Path) -> None:
    path = _pack(tmp_path / "a.jsonl", _jsonl(ROWS))
    assert len(list(wanted_documents(_config([path, path], tokens=1)))) == 12
    assert len(list(wanted_documents(_config([path, path], documents=2)))) == 4


def test_the_store_gives_what_a_list_gave(tmp_path: Path) -> None:
    documents = [Document(f"text {number}", "s", "c", "l", f"d{number % 9}") for number in range(50)]
    documents += [Document("t\u00e9xt", turns=(("user", "a"), ("assistant", "b\n"))), Document("text 3", "other")]
    held_out = {document.text for document in documents if document.is_held_out(0.3)}
    left = [d for d in documents if d.is_held_out(0.3) or d.text not in held_out]
    expected = [left[number] for number in shuffled_order(len(left), 5)]
    store = DocumentStore(iter(documents), 0.3, 5, tmp_path / "cache")
    assert list(store) == expected
    assert store[3] == expected[3]
    assert store[-1] == expected[-1]
    assert store[:4] == expected[:4]
    assert list(tmp_path.iterdir()) == []  # the file has no name


def test_many_documents_are_not_in_memory(tmp_path: Path) -> None:
    tracemalloc.start()
    store = DocumentStore((Document(f"{number}" * 2000) for number in range(3000)), 0.02, 0, tmp_path)
    size = sum(len(document.text) for document in store)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert size > 20_000_000
    assert peak < size / 20


def test_a_folder_that_may_not_be_written_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(**_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.TemporaryFile", refused)
    with pytest.raises(FeaturewatchError, match=r"Permission denied.*kept beside the cache.* Give a --cache"):
        DocumentStore([], 0.1, 0, tmp_path / "cache")


def test_held_out_flags_do_not_depend_on_the_store(tmp_path: Path) -> None:
    documents = [Document(f"text {number}") for number in range(200)]
    store = DocumentStore(documents, 0.3, 0, tmp_path)
    found = np.array([document.is_held_out(0.3) for document in store])
    assert found.sum() == sum(document.is_held_out(0.3) for document in documents)


def test_a_row_that_is_nested_too_deeply(tmp_path: Path) -> None:
    (tmp_path / "deep.jsonl").write_text('{"text": ' + "[" * 100_000)
    with pytest.raises(FeaturewatchError, match=r"deep\.jsonl:1 .*each line must be JSON"):
        list(read_documents([tmp_path / "deep.jsonl"]))
