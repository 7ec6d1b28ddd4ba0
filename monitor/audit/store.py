"""The embedded store of flagged generations: one SQLite file in WAL mode."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa
from google.protobuf.message import DecodeError
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.exc import DatabaseError

from monitor.audit.paging import PageKey
from monitor.errors import FeaturewatchError
from monitor.v1.generations_pb2 import GenerationRecord, GenerationSummary

SCHEMA_VERSION: Final = 1
_MAX_CANDIDATES: Final = 100
_SHOWN_TABLES: Final = 3

_tables = sa.MetaData()
_schema_version = sa.Table("schema_version", _tables, sa.Column("version", sa.Integer, nullable=False))
# `summary` and `record` are protobuf messages of monitor.v1; the other columns are for searching, also by hand.
_generations = sa.Table(
    "generations",
    _tables,
    sa.Column("generation_id", sa.String, primary_key=True),
    sa.Column("request_id", sa.String, nullable=False, index=True),
    sa.Column("external_id", sa.String, nullable=False, index=True),
    sa.Column("model", sa.String, nullable=False),
    sa.Column("start_unix_nanos", sa.BigInteger, nullable=False, index=True),
    sa.Column("end_unix_nanos", sa.BigInteger, nullable=False),
    sa.Column("mode", sa.Integer, nullable=False),
    sa.Column("fired", sa.String, nullable=False, comment="JSON list of policy/rule"),
    sa.Column("summary", sa.LargeBinary, nullable=False),
    sa.Column("record", sa.LargeBinary, nullable=False),
)


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
            self._require_version()

    @property
    def path(self) -> Path:
        return self._path

    def put(self, record: GenerationRecord) -> None:
        """Writes a record, replacing an earlier one of the same generation. Raises SQLAlchemy's DatabaseError."""
        summary = record.summary
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
        statement = insert(_generations).values(values)
        with self._engine.begin() as connection:
            connection.execute(statement.on_conflict_do_update(index_elements=["generation_id"], set_=values))

    def get(self, generation_id: str) -> GenerationRecord | None:
        """The record of a generation, or None."""
        query = sa.select(_generations.c.record).where(_generations.c.generation_id == generation_id)
        with self._readable_errors(), self._engine.connect() as connection:
            row = connection.execute(query).first()
            return None if row is None else GenerationRecord.FromString(row.record)

    def page(self, limit: int, before: PageKey | None = None) -> list[GenerationSummary]:
        """Summaries, the newest first, only those after `before` in the listing."""
        start, generation_id = _generations.c.start_unix_nanos, _generations.c.generation_id
        query = sa.select(_generations.c.summary).order_by(start.desc(), generation_id.desc()).limit(limit)
        if before is not None:
            query = query.where(sa.tuple_(start, generation_id) < sa.tuple_(*before))
        return self._summaries(query)

    def candidates(self, id_: str) -> list[GenerationSummary]:
        """Summaries of which the generation, request or external id is `id_` or begins with it, at most 100 of each.

        One may come twice.
        """
        columns = (_generations.c.generation_id, _generations.c.request_id, _generations.c.external_id)
        query = sa.select(_generations.c.summary).limit(_MAX_CANDIDATES)
        # Whole ids apart, lest the limit on the many that begin so cut off the one that is meant.
        whole = self._summaries(query.where(sa.or_(*(c == id_ for c in columns))))
        beginning = self._summaries(query.where(sa.or_(*(c.startswith(id_, autoescape=True) for c in columns))))
        return [*whole, *beginning]

    def count(self) -> int:
        with self._readable_errors(), self._engine.connect() as connection:
            return int(connection.execute(sa.select(sa.func.count()).select_from(_generations)).scalar_one())

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
        if names and _schema_version.name not in names:
            raise FeaturewatchError(
                f"audit store {self._path} with the tables {', '.join(names[:_SHOWN_TABLES])}",
                "it must be an SQLite file that Featurewatch made",
                "name another file with --store",
            )

    def _create(self) -> None:
        with self._engine.begin() as connection:
            _tables.create_all(connection)
            if connection.execute(sa.select(_schema_version)).first() is None:
                connection.execute(_schema_version.insert().values(version=SCHEMA_VERSION))

    def _require_version(self) -> None:
        with self._engine.connect() as connection:
            version = connection.execute(sa.select(_schema_version.c.version)).scalar_one_or_none()
        if version != SCHEMA_VERSION:
            raise FeaturewatchError(
                f"audit store {self._path} of schema version {version}",
                f"this version of Featurewatch reads and writes version {SCHEMA_VERSION}",
                "use the Featurewatch that wrote it, or name another file with --store",
            )

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
