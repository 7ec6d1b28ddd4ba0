"""The store of flagged generations."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

import numpy as np
import pytest
from audit_kit import record, summary

from monitor.audit import (
    AmbiguousIdError,
    AuditStore,
    PageKey,
    RecentSummaries,
    Transcript,
    UnknownIdError,
    build_record,
    resolve,
)
from monitor.errors import FeaturewatchError
from monitor.v1.engine_pb2 import EngineInfo


def test_a_record_comes_back_as_it_was(store: AuditStore) -> None:
    written = record()
    store.put(written)
    found = AuditStore(store.path, read_only=True).get("gen-001")
    # Serialised, because NaN differs from itself.
    assert found is not None
    assert found.SerializeToString() == written.SerializeToString()
    assert [(token.token_id, token.text, token.observed) for token in found.tokens] == [
        (7, "boom", True),
        (0, "", False),
    ]
    assert store.get("gen-002") is None
    with sqlite3.connect(store.path) as plain:
        assert plain.execute("pragma journal_mode").fetchone() == ("wal",)
        assert plain.execute("select version from schema_version").fetchall() == [(3,)]


def test_a_later_record_of_a_generation_replaces_the_earlier(store: AuditStore) -> None:
    store.put(record(1))
    store.put(record(1, end_unix_nanos=5))
    assert store.count() == 1
    assert store.page(10)[0].end_unix_nanos == 5


def test_without_content_there_are_no_texts_and_no_token_ids() -> None:
    blank = np.zeros((2, 0), np.float32)
    ids, flags = np.array([7, 8], np.int32), np.array([True, True])
    withheld = build_record(
        summary(1),
        Transcript(ids, np.ones(2, np.uint8), flags, blank, blank, texts=None),
        score_columns=[],
        alerts=[],
        engine=EngineInfo(),
        provenance=[],
        gaps=[],
        notes=[],
        sidecar_version="",
    )
    assert withheld.content == "none"
    assert {(token.token_id, token.text) for token in withheld.tokens} == {(0, "")}


def test_pages_list_the_newest_first_and_each_once(store: AuditStore) -> None:
    for number in range(7):
        store.put(record(number))
    seen: list[str] = []
    before: PageKey | None = None
    while page := store.page(3, before):
        seen += [found.generation_id for found in page]
        before = PageKey.from_token(PageKey.of(page[-1]).token)
    assert seen == [f"gen-{number:03d}" for number in reversed(range(7))]


def test_the_latest_time_has_a_page_token() -> None:
    key = PageKey((1 << 63) - 1, "gen-1")
    assert PageKey.from_token(key.token) == key


@pytest.mark.parametrize("token", ["x", ".", "1.", ".gen", "-1.gen", "١.gen", f"{1 << 63}.gen", f"{'9' * 5000}.gen"])
def test_what_is_no_page_token_is_refused(token: str) -> None:
    with pytest.raises(FeaturewatchError, match="page token '"):
        PageKey.from_token(token)


def test_ids_are_found_by_their_beginning(store: AuditStore) -> None:
    for number in (1, 12, 120):
        store.put(record(number))
    candidates = store.candidates("chatcmpl-012")
    assert resolve("chatcmpl-012", candidates) == "gen-012"
    assert resolve("gen-1", store.candidates("gen-1")) == "gen-120"
    with pytest.raises(AmbiguousIdError, match="3 generations match: gen-"):
        resolve("chat", store.candidates("chat"))
    with pytest.raises(UnknownIdError, match="no such generation"):
        resolve("%", store.candidates("%"))
    with pytest.raises(UnknownIdError):
        resolve("", store.candidates(""))


def test_a_whole_id_wins_over_a_beginning() -> None:
    one, two = summary(1, external_id="req"), summary(2, external_id="req-2")
    assert resolve("req", [one, two]) == "gen-001"


def test_two_generations_of_one_client_id_are_both_named() -> None:
    with pytest.raises(AmbiguousIdError, match=r"gen-001 .*gen-002"):
        resolve("req", [summary(1, external_id="req"), summary(2, external_id="req")])


@pytest.mark.parametrize("read_only", [False, True])
def test_what_is_no_store_is_refused(tmp_path: Path, read_only: bool) -> None:
    path = tmp_path / "notes.sqlite"
    path.write_text("shopping list " * 100)
    with pytest.raises(FeaturewatchError, match=r"audit store .*not a database"):
        AuditStore(path, read_only=read_only)


def test_a_store_of_another_version_is_refused(store: AuditStore) -> None:
    with sqlite3.connect(store.path) as plain:
        plain.execute("update schema_version set version = 9")
    with pytest.raises(FeaturewatchError, match=r"schema version 9: this version .* reads and writes version 3"):
        AuditStore(store.path)


@pytest.mark.parametrize("name", ["what?.sqlite", "a#b.sqlite", "a%20b.sqlite", "c:d@e.sqlite"])
def test_any_name_a_file_can_have_is_taken_as_it_is(tmp_path: Path, name: str) -> None:
    AuditStore(tmp_path / name).close()
    assert {path.name for path in tmp_path.iterdir()} <= {name, f"{name}-wal", f"{name}-shm"}
    assert AuditStore(tmp_path / name, read_only=True).count() == 0


def test_memory_is_the_name_of_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    AuditStore(Path(":memory:")).put(record())
    assert AuditStore(Path(":memory:"), read_only=True).count() == 1


@pytest.mark.parametrize("read_only", [False, True])
def test_the_database_of_another_program_is_refused_and_left_alone(tmp_path: Path, read_only: bool) -> None:
    path = tmp_path / "places.sqlite"
    with sqlite3.connect(path) as plain:
        plain.execute("create table bookmarks (url text)")
    before = path.read_bytes()
    with pytest.raises(FeaturewatchError, match=r"places.sqlite with the tables bookmarks: it must be .* --store"):
        AuditStore(path, read_only=read_only)
    assert path.read_bytes() == before


def test_a_damaged_record_is_told(store: AuditStore) -> None:
    store.put(record())
    with sqlite3.connect(store.path) as plain:
        plain.execute("update generations set record = x'ff', summary = x'ff'")
    with pytest.raises(FeaturewatchError, match=r"audit store .*audit.sqlite \("):
        store.get("gen-001")
    with pytest.raises(FeaturewatchError, match=r"audit store .*audit.sqlite \("):
        store.page(1)


def test_a_name_that_no_file_can_have_is_told(tmp_path: Path) -> None:
    for read_only in (False, True):
        with pytest.raises(FeaturewatchError, match=r"audit store .* \(File name too long\)"):
            AuditStore(tmp_path / ("a" * 300), read_only=read_only)


def test_a_missing_store_is_not_made_by_reading(tmp_path: Path) -> None:
    with pytest.raises(FeaturewatchError, match="there is no such file"):
        AuditStore(tmp_path / "none.sqlite", read_only=True)
    assert not (tmp_path / "none.sqlite").exists()


def test_an_empty_id_is_refused() -> None:
    with pytest.raises(UnknownIdError, match="must not be empty"):
        resolve("", [summary(1, external_id="")])


def test_a_whole_id_is_found_among_many_that_begin_with_it(store: AuditStore) -> None:
    for number in range(150):
        store.put(record(number, external_id=f"req-{number}"))
    store.put(record(500, external_id="req"))
    assert resolve("req", store.candidates("req")) == "gen-500"


def test_only_its_owner_may_read_the_store(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        store = AuditStore(tmp_path / "audit.sqlite")
        store.put(record())
        modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
    finally:
        os.umask(before)
    assert modes == dict.fromkeys(("audit.sqlite", "audit.sqlite-wal", "audit.sqlite-shm"), 0o600)


def test_the_ring_keeps_the_latest() -> None:
    ring = RecentSummaries(max_summaries=3)
    for number in range(5):
        ring.add(summary(number))
    assert [found.generation_id for found in ring.page(10)] == ["gen-004", "gen-003", "gen-002"]
    assert [found.generation_id for found in ring.page(10, PageKey.of(summary(3)))] == ["gen-002"]
