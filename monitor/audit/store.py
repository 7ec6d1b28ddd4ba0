"""The embedded store of flagged generations: one SQLite file in WAL mode."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa
from google.protobuf.message import DecodeError
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.exc import DatabaseError

from monitor.audit import schema
from monitor.audit.evidence import StoredEvidence, merge_evidence
from monitor.audit.paging import PageKey
from monitor.audit.policy_events import find_events, keep_events, revision_texts
from monitor.audit.policy_texts import keep_texts, put_back, texts_apart
from monitor.audit.schema import (
    EVIDENCE_SINCE,
    POLICY_EVENTS_SINCE,
    POLICY_TEXTS_SINCE,
    READABLE_VERSIONS,
    SCHEMA_VERSION,
)
from monitor.errors import FeaturewatchError
from monitor.v1.evidence_pb2 import Evidence
from monitor.v1.generations_pb2 import GenerationRecord, GenerationSummary
from monitor.v1.policies_pb2 import PolicyEvent

_MAX_CANDIDATES: Final = 100
_SHOWN_TABLES: Final = 3


class AuditStore:
    """Generation records by id. Safe to use from several threads; one process writes, others may read."""

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        """Opens the file, creating it unless `read_only`.

        Raises:
            FeaturewatchError: it is missing (read only), cannot be opened, is no store or is of another version.
        """
        self._path = path
        # Not as text of a URL, in which `?` and `%` mean something else; absolute, for ":memory:" is a file here.
        url = sa.URL.create("sqlite", database=str(path.absolute()))
        self._engine = sa.create_engine(url, connect_args={"timeout": 10})
        with self._readable_errors():
            if read_only and not path.is_file():
                raise FeaturewatchError(
                    f"audit store {path}", "there is no such file", "give the file that the sidecar writes (--store)"
                )
            if path.is_file():
                self._require_no_other_content()
            sa.event.listen(self._engine, "connect", _prepare_reading if read_only else _prepare_writing)
            if not read_only:
                path.parent.mkdir(parents=True, exist_ok=True)
                # It holds prompts: for its owner only. SQLite gives `-wal` and `-shm` the mode of this file.
                os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
                self._create()
            self._version = self._require_version()

    @property
    def path(self) -> Path:
        return self._path

    def put(self, record: GenerationRecord) -> None:
        """Writes a record, replacing an earlier one of the same generation; evidence that was kept before a policy
        forbade content goes. Raises SQLAlchemy's DatabaseError."""
        summary = record.summary
        with texts_apart(record) as texts:
            values = {
                "generation_id": summary.generation_id,
                "request_id": summary.request_id,
                "external_id": summary.external_id,
                "model": summary.model,
                "start_unix_nanos": summary.start_unix_nanos,
                "end_unix_nanos": summary.end_unix_nanos,
                "mode": summary.mode,
                "fired": json.dumps(list(summary.fired)),
                "summary": summary.SerializeToString(),
                "record": record.SerializeToString(),
            }
        statement = insert(schema.generations).values(values)
        with self._engine.begin() as connection:
            keep_texts(connection, texts)
            connection.execute(statement.on_conflict_do_update(index_elements=["generation_id"], set_=values))
            if record.content == "none" and summary.fired:
                kept = schema.evidence
                connection.execute(sa.delete(kept).where(kept.c.generation_id == summary.generation_id))

    def add_evidence(self, stored: StoredEvidence) -> None:
        """Adds evidence to a generation, whether its record is there yet or not. Raises SQLAlchemy's DatabaseError."""
        table = schema.evidence
        with self._engine.begin() as connection:
            for later in stored.evidence:
                key = {"generation_id": stored.generation_id, "hook_point": later.hook_point, "sae": later.sae}
                query = sa.select(table.c.evidence).where(*(table.c[name] == value for name, value in key.items()))
                earlier = connection.execute(query).scalar_one_or_none()
                merged = later if earlier is None else merge_evidence(Evidence.FromString(earlier), later)
                values = {**key, "evidence": merged.SerializeToString()}
                statement = insert(table).values(values)
                connection.execute(statement.on_conflict_do_update(index_elements=[*key], set_=values))

    def evidence(self, generation_id: str) -> list[Evidence]:
        """What captures gave of a generation, one per dictionary, by layer and id."""
        if self._version < EVIDENCE_SINCE:
            return []
        table = schema.evidence
        query = sa.select(table.c.evidence).where(table.c.generation_id == generation_id)
        query = query.order_by(sa.func.length(table.c.hook_point), table.c.hook_point, table.c.sae)
        with self._readable_errors(), self._engine.connect() as connection:
            return [Evidence.FromString(row.evidence) for row in connection.execute(query)]

    def add_policy_events(self, events: Sequence[PolicyEvent]) -> None:
        """Adds changes of policies, in their order. Raises SQLAlchemy's DatabaseError."""
        with self._engine.begin() as connection:
            keep_events(connection, events)

    def policy_events(self, *, policy: str = "", since_unix_nanos: int = 0, limit: int = 1000) -> list[PolicyEvent]:
        """The newest changes of policies after a time, oldest first; of all policies where none is named."""
        if self._version < POLICY_EVENTS_SINCE:
            return []
        with self._readable_errors(), self._engine.connect() as connection:
            return find_events(connection, policy, since_unix_nanos, limit)

    def revision_texts(self) -> dict[tuple[str, int], str]:
        """SHA-256 of the text that was last in force under each policy's name and revision."""
        if self._version < POLICY_EVENTS_SINCE:
            return {}
        with self._readable_errors(), self._engine.connect() as connection:
            return revision_texts(connection)

    def get(self, generation_id: str) -> GenerationRecord | None:
        """The record of a generation with its evidence, or None."""
        query = sa.select(schema.generations.c.record).where(schema.generations.c.generation_id == generation_id)
        with self._readable_errors(), self._engine.connect() as connection:
            row = connection.execute(query).first()
            record = None if row is None else GenerationRecord.FromString(row.record)
            if record is not None and self._version >= POLICY_TEXTS_SINCE:
                put_back(connection, record)
        if record is not None:
            record.evidence.extend(self.evidence(generation_id))
        return record

    def page(self, limit: int, before: PageKey | None = None) -> list[GenerationSummary]:
        """Summaries, the newest first, only those after `before` in the listing."""
        start, generation_id = schema.generations.c.start_unix_nanos, schema.generations.c.generation_id
        query = sa.select(schema.generations.c.summary).order_by(start.desc(), generation_id.desc()).limit(limit)
        if before is not None:
            query = query.where(sa.tuple_(start, generation_id) < sa.tuple_(*before))
        return self._summaries(query)

    def candidates(self, id_: str) -> list[GenerationSummary]:
        """Summaries of which the generation, request or external id is `id_` or begins with it, at most 100 of each.

        One may come twice.
        """
        columns = (
            schema.generations.c.generation_id,
            schema.generations.c.request_id,
            schema.generations.c.external_id,
        )
        query = sa.select(schema.generations.c.summary).limit(_MAX_CANDIDATES)
        # Whole ids apart, lest the limit on the many that begin so cut off the one that is meant.
        whole = self._summaries(query.where(sa.or_(*(c == id_ for c in columns))))
        beginning = self._summaries(query.where(sa.or_(*(c.startswith(id_, autoescape=True) for c in columns))))
        return [*whole, *beginning]

    def count(self) -> int:
        with self._readable_errors(), self._engine.connect() as connection:
            return int(connection.execute(sa.select(sa.func.count()).select_from(schema.generations)).scalar_one())

    def close(self) -> None:
        self._engine.dispose()

    def _summaries(self, query: sa.Select[Any]) -> list[GenerationSummary]:
        with self._readable_errors(), self._engine.connect() as connection:
            return [GenerationSummary.FromString(row.summary) for row in connection.execute(query)]

    def _require_no_other_content(self) -> None:
        """Refuses the SQLite file of another program before anything in it is changed."""
        try:
            names = sa.inspect(self._engine).get_table_names()
        finally:
            # Connections that are made from now on are prepared.
            self._engine.dispose()
        if names and schema.schema_version.name not in names:
            raise FeaturewatchError(
                f"audit store {self._path} with the tables {', '.join(names[:_SHOWN_TABLES])}",
                "it must be an SQLite file that Featurewatch made",
                "name another file with --store",
            )

    def _create(self) -> None:
        with self._engine.begin() as connection:
            schema.create(connection)

    def _require_version(self) -> int:
        with self._engine.connect() as connection:
            version = connection.execute(sa.select(schema.schema_version.c.version)).scalar_one_or_none()
        if version not in READABLE_VERSIONS:
            raise FeaturewatchError(
                f"audit store {self._path} of schema version {version}",
                f"this version of Featurewatch reads and writes version {SCHEMA_VERSION}",
                "use the Featurewatch that wrote it, or name another file with --store",
            )
        return int(version)

    @contextmanager
    def _readable_errors(self) -> Iterator[None]:
        try:
            yield
        except (DatabaseError, OSError, DecodeError) as error:
            cause = getattr(error, "orig", None) or getattr(error, "strerror", None) or error
            raise FeaturewatchError(
                f"audit store {self._path} ({cause})",
                "it must be an SQLite file that Featurewatch made, in a folder that this user may use",
                "name another file with --store",
            ) from error


def _prepare_writing(connection: sqlite3.Connection, _record: object) -> None:
    connection.execute("PRAGMA journal_mode=WAL")
    # With WAL, NORMAL survives the process; only a power cut may lose the last transactions.
    connection.execute("PRAGMA synchronous=NORMAL")


def _prepare_reading(connection: sqlite3.Connection, _record: object) -> None:
    connection.execute("PRAGMA query_only=ON")
