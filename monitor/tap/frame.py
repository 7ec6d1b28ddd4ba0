"""What goes into one message to the sidecar."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

from monitor.tap.record import Begin, End, Gap, HostRows, Payload, Segment, Step

# Rough size in memory of one begin, gap, end or segment; more than it has in the message.
_ENTRY_BYTES: Final = 128


@dataclass(slots=True)
class Frame:
    """One StepFrame to be. Without segments it is only bookkeeping, which later bookkeeping joins until it is sent."""

    time_unix_nanos: int
    begins: dict[int, Begin] = field(default_factory=dict)
    gaps: dict[int, list[Gap]] = field(default_factory=dict)
    segments: list[Segment] = field(default_factory=list)
    payload: Payload | None = None
    plan_digest: str = ""
    # As it was called when the payload was encoded, maybe by an earlier session.
    encoded_version: int = 0
    ends: dict[int, End] = field(default_factory=dict)
    # 0 until it is sent in this session.
    seq: int = 0
    # Sent to a sidecar process that has ended.
    lost: bool = False
    # Plan version of this session; set when it is sent.
    plan_version: int = 0
    nbytes: int = _ENTRY_BYTES

    @classmethod
    def of(cls, step: Step) -> Frame:
        frame = cls(step.time_unix_nanos, plan_digest=step.plan_digest, encoded_version=step.plan_version)
        frame._add(step.begins, step.gaps, step.ends)
        frame._add_rows(step.segments, step.payload)
        return frame

    @property
    def rows(self) -> int:
        return sum(segment.length for segment in self.segments)

    def join(self, later: Frame) -> None:
        """Adds the bookkeeping of a later frame."""
        self.time_unix_nanos = later.time_unix_nanos
        self._add(later.begins.values(), [gap for gaps in later.gaps.values() for gap in gaps], later.ends.values())

    def add_begin(self, begin: Begin) -> None:
        self.begins[begin.handle] = begin
        self.nbytes += len(begin.prompt_token_ids) + len(begin.tenant) + _ENTRY_BYTES

    def add_gap(self, gap: Gap) -> None:
        """Adds a gap, as part of the request's previous one where it continues it."""
        known = self.gaps.setdefault(gap.handle, [])
        if known and known[-1].reason == gap.reason and known[-1].first + known[-1].length == gap.first:
            known[-1] = known[-1]._replace(length=known[-1].length + gap.length)
            return
        known.append(gap)
        self.nbytes += _ENTRY_BYTES

    def add_end(self, end: End) -> None:
        self.ends[end.handle] = end
        self.nbytes += len(end.tail_token_ids) + _ENTRY_BYTES

    def drop_rows(self, reason: int) -> int:
        """Turns the rows into gaps; returns how many they were."""
        rows = self.rows
        self.nbytes -= _rows_bytes(self.segments, self.payload)
        for handle, first, count in self.segments:
            self.add_gap(Gap(handle, first, count, reason))
        self.segments, self.payload, self.plan_version = [], None, 0
        return rows

    def forget(self, handle: int) -> int:
        """Removes a request that begins and ends here; returns its positions."""
        begin, end = self.begins.pop(handle), self.ends.pop(handle)
        gaps = self.gaps.pop(handle, [])
        texts = len(begin.prompt_token_ids) + len(begin.tenant) + len(end.tail_token_ids)
        self.nbytes -= texts + _ENTRY_BYTES * (2 + len(gaps))
        return end.positions

    def split(self, limit: int) -> list[Frame]:
        """Frames that say the same in the same order, each of at most `limit` bytes as far as the bookkeeping of one
        request, or one row, allows."""
        parts = [self._empty()]
        for handle in dict.fromkeys((*self.begins, *self.gaps)):
            part = self._empty()
            begins = [self.begins[handle]] if handle in self.begins else []
            part._add(begins, self.gaps.get(handle, []), [])
            if parts[-1].nbytes + part.nbytes > limit:
                parts.append(self._empty())
            parts[-1].join(part)
        for segments, payload in self._row_parts(limit):
            parts.append(self._empty())
            parts[-1]._add_rows(segments, payload)
        for end in self.ends.values():
            if parts[-1].nbytes + len(end.tail_token_ids) + _ENTRY_BYTES > limit:
                parts.append(self._empty())
            parts[-1].add_end(end)
        return [part for part in parts if part.nbytes > _ENTRY_BYTES]

    def _empty(self) -> Frame:
        return Frame(
            self.time_unix_nanos,
            plan_digest=self.plan_digest,
            encoded_version=self.encoded_version,
            plan_version=self.plan_version,
            lost=self.lost,
        )

    def _add(self, begins: Iterable[Begin], gaps: Iterable[Gap], ends: Iterable[End]) -> None:
        for begin in begins:
            self.add_begin(begin)
        for gap in gaps:
            self.add_gap(gap)
        for end in ends:
            self.add_end(end)

    def _add_rows(self, segments: list[Segment], payload: Payload | None) -> None:
        self.segments, self.payload = segments, payload
        self.nbytes += _rows_bytes(segments, payload)

    def _row_parts(self, limit: int) -> Iterator[tuple[list[Segment], Payload]]:
        if self.payload is None:
            return
        # As if every row were a segment of its own.
        room = max((limit - _ENTRY_BYTES) // (self.payload.nbytes // self.rows + _ENTRY_BYTES), 1)
        part: list[Segment] = []
        taken, first_row = 0, 0
        for segment in self.segments:
            done = 0
            while done < segment.length:
                count = min(segment.length - done, room - taken)
                part.append(Segment(segment.handle, segment.first + done, count))
                done, taken = done + count, taken + count
                if taken == room:
                    yield part, RowsOf(self.payload, first_row, taken, self.rows)
                    part, taken, first_row = [], 0, first_row + taken
        if part:
            yield part, RowsOf(self.payload, first_row, taken, self.rows)


@dataclass(frozen=True, slots=True)
class RowsOf:
    """Consecutive rows of a payload of `total` rows."""

    payload: Payload
    first: int
    count: int
    total: int

    @property
    def nbytes(self) -> int:
        return self.payload.nbytes * self.count // self.total

    def read(self) -> HostRows:
        rows = self.payload.read()
        part = slice(self.first, self.first + self.count)
        return HostRows(rows.token_ids_n[part], [(name, acts_nk[part]) for name, acts_nk in rows.activations])


def _rows_bytes(segments: list[Segment], payload: Payload | None) -> int:
    return _ENTRY_BYTES * len(segments) + (payload.nbytes if payload is not None else 0)
