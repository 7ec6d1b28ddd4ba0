"""Generation records: how they are built, the SQLite store of flagged ones, the ring of recent unflagged ones."""

from monitor.audit.evidence import StoredEvidence, merge_evidence
from monitor.audit.lookup import AmbiguousIdError, UnknownIdError, resolve
from monitor.audit.paging import PageKey
from monitor.audit.recent import RecentSummaries
from monitor.audit.record import UNKNOWN_TOKEN, Transcript, build_record, gap_reason_text
from monitor.audit.sample import in_sample
from monitor.audit.store import AuditStore
from monitor.audit.writer import AuditWriter

__all__ = [
    "UNKNOWN_TOKEN",
    "AmbiguousIdError",
    "AuditStore",
    "AuditWriter",
    "PageKey",
    "RecentSummaries",
    "StoredEvidence",
    "Transcript",
    "UnknownIdError",
    "build_record",
    "gap_reason_text",
    "in_sample",
    "merge_evidence",
    "resolve",
]
