"""Evidence in the store: beside records, merged over captures, in stores of older versions."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monitor.audit import AuditStore, AuditWriter, StoredEvidence, merge_evidence
from monitor.errors import FeaturewatchError
from monitor.v1.evidence_pb2 import Evidence, TokenEvidence
from monitor.v1.generations_pb2 import GenerationRecord, GenerationSummary

# As version 1 of the store made its tables.
VERSION_1 = """
CREATE TABLE schema_version (version INTEGER NOT NULL);
CREATE TABLE generations (
    generation_id VARCHAR NOT NULL, request_id VARCHAR NOT NULL, external_id VARCHAR NOT NULL, model VARCHAR NOT NULL,
    start_unix_nanos BIGINT NOT NULL, end_unix_nanos BIGINT NOT NULL, mode INTEGER NOT NULL, fired VARCHAR NOT NULL,
    summary BLOB NOT NULL, record BLOB NOT NULL, PRIMARY KEY (generation_id)
);
CREATE INDEX ix_generations_request_id ON generations (request_id);
CREATE INDEX ix_generations_external_id ON generations (external_id);
CREATE INDEX ix_generations_start_unix_nanos ON generations (start_unix_nanos);
INSERT INTO schema_version VALUES (1);
"""


def record(id_: str = "gen-1") -> GenerationRecord:
    return GenerationRecord(summary=GenerationSummary(generation_id=id_, fired=["p/R"]), content="full")


def evidence(positions: Sequence[int], *, missing: int = 0, reason: str = "p/R", sae: str = "tiny/a") -> Evidence:
    tokens = [
        TokenEvidence(position=p, latents=[p, 7], activations=[2.5, 0.5], active=9, error=0.25) for p in positions
    ]
    return Evidence(
        hook_point="resid_post.3",
        sae=sae,
        sae_sha256="ab" * 32,
        num_latents=100,
        tokens=tokens,
        labels={7: "seven"},
        reason=reason,
        missing=missing,
        device="cpu",
    )


def old_store(path: Path) -> Path:
    one = record()
    with sqlite3.connect(path) as plain:
        plain.executescript(VERSION_1)
        values = ("gen-1", "", "", "", 0, 0, 0, "[]", one.summary.SerializeToString(), one.SerializeToString())
        plain.execute("INSERT INTO generations VALUES (?,?,?,?,?,?,?,?,?,?)", values)
    return path


@pytest.mark.parametrize("first", ["record", "evidence"])
def test_evidence_stands_in_its_record_whichever_is_written_first(tmp_path: Path, first: str) -> None:
    store = AuditStore(tmp_path / "audit.sqlite")
    writes = [
        lambda: store.put(record()),
        lambda: store.add_evidence(StoredEvidence("gen-1", (evidence([0, 1]), evidence([0], sae="tiny/b")))),
    ]
    for write in writes if first == "record" else reversed(writes):
        write()
    # Written again when the generation ends: what was captured stays.
    store.put(record())
    found = store.get("gen-1")
    assert found is not None
    assert [(one.sae, len(one.tokens)) for one in found.evidence] == [("tiny/a", 2), ("tiny/b", 1)]
    assert found.evidence[0] == evidence([0, 1])
    assert store.evidence("gen-2") == []


@settings(deadline=None)
@given(
    one=st.sets(st.integers(0, 20)),
    other=st.sets(st.integers(0, 20)),
    one_missing=st.integers(0, 9),
    other_missing=st.integers(0, 9),
    same=st.booleans(),
)
def test_merged_evidence_has_the_tokens_of_both_and_misses_what_neither_has(
    *, one: set[int], other: set[int], one_missing: int, other_missing: int, same: bool
) -> None:
    earlier = evidence(sorted(one), missing=one_missing)
    later = evidence(sorted(other), missing=other_missing, reason="p/R" if same else "client")
    merged = merge_evidence(earlier, later)
    assert [token.position for token in merged.tokens] == sorted(one | other)
    observed = max(len(one) + one_missing, len(other) + other_missing)
    assert merged.missing == max(observed - len(one | other), 0)
    assert merged.reason == ("p/R" if same else "p/R, client")
    assert merge_evidence(merged, later).reason == merged.reason
    assert dict(merged.labels) == {7: "seven"}


def test_evidence_of_another_version_of_a_dictionary_is_not_mixed_in() -> None:
    later = evidence([5])
    later.sae_sha256 = "cd" * 32
    assert merge_evidence(evidence([0, 1]), later) == later


def test_a_store_of_the_first_version_is_read_and_brought_up_to_date_when_written(tmp_path: Path) -> None:
    path = old_store(tmp_path / "audit.sqlite")
    reading = AuditStore(path, read_only=True)
    found = reading.get("gen-1")
    assert found == record()
    assert reading.evidence("gen-1") == []
    with sqlite3.connect(path) as plain:
        assert plain.execute("select version from schema_version").fetchall() == [(1,)]

    writing = AuditStore(path)
    writing.add_evidence(StoredEvidence("gen-1", (evidence([3]),)))
    assert [len(one.tokens) for one in writing.get("gen-1").evidence] == [1]  # type: ignore[union-attr]
    # Opened before: it reads as before.
    assert reading.get("gen-1") == record()
    assert len(AuditStore(path, read_only=True).evidence("gen-1")) == 1
    with sqlite3.connect(path) as plain:
        assert plain.execute("select version from schema_version").fetchall() == [(3,)]
    AuditStore(path)


def test_a_store_of_a_later_version_is_left_as_it_is(tmp_path: Path) -> None:
    path = old_store(tmp_path / "audit.sqlite")
    with sqlite3.connect(path) as plain:
        plain.execute("update schema_version set version = 9")
        before = plain.execute("select name from sqlite_master order by name").fetchall()
    with pytest.raises(FeaturewatchError, match="schema version 9"):
        AuditStore(path)
    with sqlite3.connect(path) as plain:
        assert plain.execute("select name from sqlite_master order by name").fetchall() == before


def test_the_writer_writes_every_capture_of_a_generation(tmp_path: Path) -> None:
    store = AuditStore(tmp_path / "audit.sqlite")
    writer = AuditWriter(store)
    for position in range(5):
        writer.submit_evidence(StoredEvidence("gen-1", (evidence([position]),)))
        writer.submit(record, "gen-1")
    assert writer.flush()
    writer.close()
    found = store.get("gen-1")
    assert found is not None
    assert [token.position for token in found.evidence[0].tokens] == [*range(5)]
    assert writer.lost == 0
