"""The store keeps each policy's text once and gives it back with every record that names it."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from monitor.audit import AuditStore
from monitor.v1.generations_pb2 import GenerationRecord, GenerationSummary, Provenance

OLD = Provenance(kind="policy", name="loud", revision="1", sha256="a" * 64, text="old text")
NEW = Provenance(kind="policy", name="loud", revision="2", sha256="b" * 64, text="new text\n# ü")
SAE = Provenance(kind="sae", name="tiny", sha256="c" * 64)


def record(name: str, *provenance: Provenance) -> GenerationRecord:
    return GenerationRecord(summary=GenerationSummary(generation_id=name, request_id=name), provenance=provenance)


def rows(path: Path, query: str) -> list[tuple[object, ...]]:
    connection = sqlite3.connect(path)
    try:
        return connection.execute(query).fetchall()
    finally:
        connection.close()


def test_texts_come_back_and_lie_in_the_file_once(tmp_path: Path) -> None:
    store = AuditStore(tmp_path / "audit.sqlite")
    written = {"one": record("one", OLD, SAE), "two": record("two", OLD, NEW), "three": record("three", SAE)}
    for one in written.values():
        before = one.SerializeToString()
        store.put(one)
        store.put(one)
        assert one.SerializeToString() == before
    reader = AuditStore(store.path, read_only=True)
    assert {name: reader.get(name) for name in written} == written
    kept = rows(store.path, "SELECT sha256, text FROM policy_texts ORDER BY sha256")
    assert kept == [(OLD.sha256, OLD.text), (NEW.sha256, NEW.text)]
    assert not any(b"old text" in bytes(blob) for (blob,) in rows(store.path, "SELECT record FROM generations"))  # type: ignore[call-overload]


def test_a_store_of_version_2_is_read_as_it_is_and_brought_up_to_date_when_written(tmp_path: Path) -> None:
    path = tmp_path / "audit.sqlite"
    store = AuditStore(path)
    store.put(record("one", OLD))
    store.close()
    connection = sqlite3.connect(path)
    with connection:
        connection.execute("DROP TABLE policy_texts")
        connection.execute("UPDATE schema_version SET version = 2")
    connection.close()
    found = AuditStore(path, read_only=True).get("one")
    assert found is not None
    assert [(entry.sha256, entry.text) for entry in found.provenance] == [(OLD.sha256, "")]
    assert rows(path, "SELECT version FROM schema_version") == [(2,)]
    again = AuditStore(path)
    again.put(record("two", NEW))
    assert rows(path, "SELECT version FROM schema_version") == [(3,)]
    assert again.get("two") == record("two", NEW)
