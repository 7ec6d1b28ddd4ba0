"""Texts of policies lie in a table of their own, once per text, and come back into each record that is read."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import sqlalchemy as sa
from sqlalchemy.dialects.sqlite import insert

from monitor.audit import schema
from monitor.v1.generations_pb2 import GenerationRecord


@contextmanager
def texts_apart(record: GenerationRecord) -> Iterator[dict[str, str]]:
    """While open the record has no texts of policies; yields them by SHA-256."""
    policies = [entry for entry in record.provenance if entry.kind == "policy" and entry.text]
    texts = {entry.sha256: entry.text for entry in policies}
    for entry in policies:
        entry.ClearField("text")
    try:
        yield texts
    finally:
        _fill(record, texts)


def keep_texts(connection: sa.Connection, texts: dict[str, str]) -> None:
    """Writes those that are not there yet."""
    if texts:
        rows = [{"sha256": sha256, "text": text} for sha256, text in texts.items()]
        connection.execute(insert(schema.policy_texts).on_conflict_do_nothing(), rows)


def put_back(connection: sa.Connection, record: GenerationRecord) -> None:
    """Fills in the texts that the store has."""
    table = schema.policy_texts
    wanted = [entry.sha256 for entry in record.provenance if entry.kind == "policy"]
    query = sa.select(table.c.sha256, table.c.text).where(table.c.sha256.in_(wanted))
    _fill(record, {row.sha256: row.text for row in connection.execute(query)})


def _fill(record: GenerationRecord, texts: dict[str, str]) -> None:
    for entry in record.provenance:
        if entry.kind == "policy" and entry.sha256 in texts:
            entry.text = texts[entry.sha256]
