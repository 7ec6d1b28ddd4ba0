"""Tables of the store and their versions.

Version 1: `generations`. Version 2 adds `evidence`, version 3 `policy_texts` and `policy_events`; nothing else differs.
"""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa

SCHEMA_VERSION: Final = 3
#: Versions that can be read; opened for writing, an older one is brought to `SCHEMA_VERSION`.
READABLE_VERSIONS: Final = (1, 2, SCHEMA_VERSION)
EVIDENCE_SINCE: Final = 2
POLICY_TEXTS_SINCE: Final = 3
POLICY_EVENTS_SINCE: Final = 3

tables = sa.MetaData()
schema_version = sa.Table("schema_version", tables, sa.Column("version", sa.Integer, nullable=False))
# `summary` and `record` are protobuf messages of monitor.v1; the other columns are for searching, also by hand.
generations = sa.Table(
    "generations",
    tables,
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
# Apart from the record, which is written again when its generation goes on. `evidence` is a monitor.v1.Evidence.
evidence = sa.Table(
    "evidence",
    tables,
    sa.Column("generation_id", sa.String, primary_key=True),
    sa.Column("hook_point", sa.String, primary_key=True),
    sa.Column("sae", sa.String, primary_key=True),
    sa.Column("evidence", sa.LargeBinary, nullable=False),
)
# Of the policies that records name, by the SHA-256 of their text.
policy_texts = sa.Table(
    "policy_texts",
    tables,
    sa.Column("sha256", sa.String, primary_key=True),
    sa.Column("text", sa.String, nullable=False),
)
# `event` is a monitor.v1.PolicyEvent; `number` is the order in which they were written.
policy_events = sa.Table(
    "policy_events",
    tables,
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("event_id", sa.String, nullable=False, unique=True),
    sa.Column("time_unix_nanos", sa.BigInteger, nullable=False, index=True),
    sa.Column("kind", sa.String, nullable=False),
    sa.Column("policy", sa.String, nullable=False, index=True),
    sa.Column("new_revision", sa.BigInteger, nullable=False),
    sa.Column("new_sha256", sa.String, nullable=False),
    sa.Column("actor", sa.String, nullable=False),
    sa.Column("event", sa.LargeBinary, nullable=False),
)


def create(connection: sa.Connection) -> None:
    """Makes what is missing in a store of any readable version, or in an empty file."""
    version = None
    if sa.inspect(connection).has_table(schema_version.name):
        version = connection.execute(sa.select(schema_version.c.version)).scalar_one_or_none()
        if version is not None and version not in READABLE_VERSIONS:
            # Not ours to change; the caller refuses it.
            return
    tables.create_all(connection)
    if version is None:
        connection.execute(schema_version.insert().values(version=SCHEMA_VERSION))
    elif version < SCHEMA_VERSION:
        connection.execute(schema_version.update().values(version=SCHEMA_VERSION))
