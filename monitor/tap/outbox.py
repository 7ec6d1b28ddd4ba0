"""Frames on their way to the sidecar: bounded, in order, sent again after a reconnect, and honest about what is lost.

Pure bookkeeping: no I/O, no threads (the publisher holds a lock around it). What it guarantees, for every request and
within one sidecar session: it is announced once, before anything else is said of it; rows and gaps follow in ascending
order without overlap or hole; its end comes last.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Final

from monitor.tap.record import QUEUE_FULL, SIDECAR_LOST, Begin, End, Gap, Payload, Segment, Step

DEFAULT_WINDOW: Final = 256
"""Most frames sent and not acknowledged, unless the sidecar asks for fewer."""

_ROWS: Final = -1
# Rough size in memory of one begin, gap or end.
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
    ends: dict[int, End] = field(default_factory=dict)
    # 0 until it is sent in this session.
    seq: int = 0
    # Sent to a sidecar process that has ended.
    lost: bool = False
    # Plan version of this session; set when it is sent.
    plan_version: int = 0
    nbytes: int = 0

    @property
    def rows(self) -> int:
        return sum(segment.length for segment in self.segments)

    def add_begin(self, begin: Begin) -> None:
        self.begins[begin.handle] = begin
        self.nbytes += len(begin.prompt_token_ids) + _ENTRY_BYTES

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
        self.nbytes -= self.payload.nbytes if self.payload is not None else 0
        for handle, first, count in self.segments:
            self.add_gap(Gap(handle, first, count, reason))
        self.segments, self.payload, self.plan_version = [], None, 0
        return rows

    def forget(self, handle: int) -> int:
        """Removes a request that begins and ends here; returns its positions."""
        begin, end = self.begins.pop(handle), self.ends.pop(handle)
        gaps = self.gaps.pop(handle, [])
        self.nbytes -= len(begin.prompt_token_ids) + len(end.tail_token_ids) + _ENTRY_BYTES * (2 + len(gaps))
        return end.positions


class _Runs:
    """What one request's reported positions were: consecutive runs of one kind."""

    __slots__ = ("begin", "runs")

    def __init__(self, begin: Begin) -> None:
        self.begin = begin
        self.runs: list[tuple[int, int, int]] = []

    def add(self, first: int, count: int, kind: int) -> None:
        if self.runs and self.runs[-1][2] == kind:
            start, length, _ = self.runs[-1]
            self.runs[-1] = (start, length + count, kind)
        else:
            self.runs.append((first, count, kind))


class Outbox:
    """The queue. Frames stay until they are acknowledged; `max_frames` and `max_bytes` bound all of them together.

    When it is full, a step's rows become gaps. Requests that begin and end while nothing can be sent are kept up to
    `max_requests`; beyond that the oldest are forgotten and counted (`unreported_requests`, `unreported_positions`).
    """

    def __init__(self, max_frames: int, max_bytes: int, max_requests: int = 4096) -> None:
        self._max_frames, self._max_bytes, self._max_requests = max_frames, max_bytes, max_requests
        self._frames: deque[Frame] = deque()
        self._sent = 0
        self._bytes = 0
        self._next_seq = 1
        self._window = DEFAULT_WINDOW
        self._session = ""
        self._versions: dict[str, int] = {}
        # Live requests that the session has acknowledged.
        self._delivered: dict[int, _Runs] = {}
        self.dropped_rows = 0
        self.unreported_requests = 0
        self.unreported_positions = 0

    @property
    def full(self) -> bool:
        """True when the next step's rows would become gaps, so that encoding them is wasted work."""
        return len(self._frames) >= self._max_frames or self._bytes >= self._max_bytes

    @property
    def session(self) -> str:
        """Session of the sidecar that was spoken to last; empty before the first."""
        return self._session

    @property
    def empty(self) -> bool:
        return not self._frames

    def offer(self, step: Step) -> None:
        """Takes a step. Never refuses: what does not fit becomes gaps."""
        if not (step.segments or step.begins or step.gaps or step.ends):
            return
        frame = self._frame(step)
        if step.segments and step.payload is None:
            self.dropped_rows += frame.drop_rows(step.missing_because)
        elif step.segments and self.full:
            self.dropped_rows += frame.drop_rows(QUEUE_FULL)
        tail = self._frames[-1] if len(self._frames) > self._sent else None
        if frame.segments or tail is None or tail.segments or tail.seq:
            self._frames.append(frame)
            self._bytes += frame.nbytes
            return
        before = tail.nbytes
        tail.time_unix_nanos = frame.time_unix_nanos
        for begin in frame.begins.values():
            tail.add_begin(begin)
        for gaps in frame.gaps.values():
            for gap in gaps:
                tail.add_gap(gap)
        for end in frame.ends.values():
            tail.add_end(end)
        self._forget_oldest(tail)
        self._bytes += tail.nbytes - before

    def take(self) -> Frame | None:
        """The next frame to send, or None when there is none or the window is used up."""
        if self._sent >= len(self._frames) or self._sent >= self._window:
            return None
        frame = self._frames[self._sent]
        if frame.segments:
            version = self._versions.get(frame.plan_digest)
            if version is None:
                self.blank(frame, SIDECAR_LOST if frame.lost else QUEUE_FULL)
            else:
                frame.plan_version = version
        if not frame.seq:
            frame.seq, self._next_seq = self._next_seq, self._next_seq + 1
        self._sent += 1
        return frame

    def blank(self, frame: Frame, reason: int) -> None:
        """Turns the rows of a frame in the queue into gaps."""
        before = frame.nbytes
        self.dropped_rows += frame.drop_rows(reason)
        self._bytes += frame.nbytes - before

    def acknowledge(self, seq: int) -> None:
        """Forgets sent frames up to `seq`; they are judged."""
        while self._frames and 0 < self._frames[0].seq <= seq:
            frame = self._frames.popleft()
            self._sent = max(self._sent - 1, 0)
            self._bytes -= frame.nbytes
            self._remember(frame)

    def connect(self, session: str, last_seq: int, credits: int) -> None:
        """A sidecar said Welcome. Within the same session frames after `last_seq` are sent again; a new session is
        told of every live request, with what the old one knew as gaps."""
        self._window = min(credits, DEFAULT_WINDOW) if credits else DEFAULT_WINDOW
        if session == self._session:
            self.acknowledge(last_seq)
            self._sent = 0
            return
        first_session, self._session = not self._session, session
        self._versions = {}
        for index, frame in enumerate(self._frames):
            frame.lost = frame.lost or (index < self._sent and not first_session)
            frame.seq = 0
        self._sent = 0
        self._announce_again()

    def plan(self, digest: str, version: int) -> None:
        """Rows encoded under the plan with this digest may be sent, as `version`, for the rest of the session."""
        self._versions[digest] = version

    def _announce_again(self) -> None:
        if not self._delivered:
            return
        resume = Frame(time_unix_nanos=0)
        for handle, known in self._delivered.items():
            resume.add_begin(known.begin._replace(resumed=True))
            for first, count, kind in known.runs:
                if kind == _ROWS:
                    self.dropped_rows += count
                resume.add_gap(Gap(handle, first, count, SIDECAR_LOST if kind == _ROWS else kind))
        self._delivered = {}
        self._frames.appendleft(resume)
        self._bytes += resume.nbytes

    def _remember(self, frame: Frame) -> None:
        for handle, begin in frame.begins.items():
            self._delivered[handle] = _Runs(begin)
        for gap in (gap for gaps in frame.gaps.values() for gap in gaps):
            self._delivered[gap.handle].add(gap.first, gap.length, gap.reason)
        for segment in frame.segments:
            self._delivered[segment.handle].add(segment.first, segment.length, _ROWS)
        for handle in frame.ends:
            del self._delivered[handle]

    @staticmethod
    def _frame(step: Step) -> Frame:
        frame = Frame(
            time_unix_nanos=step.time_unix_nanos,
            segments=step.segments,
            payload=step.payload,
            plan_digest=step.plan_digest,
            nbytes=_ENTRY_BYTES * (1 + len(step.segments)) + (step.payload.nbytes if step.payload is not None else 0),
        )
        for begin in step.begins:
            frame.add_begin(begin)
        for gap in step.gaps:
            frame.add_gap(gap)
        for end in step.ends:
            frame.add_end(end)
        return frame

    def _forget_oldest(self, frame: Frame) -> None:
        """Keeps a frame of pure bookkeeping, which grows through an outage, within bounds."""
        if len(frame.begins) <= self._max_requests and frame.nbytes <= self._max_bytes:
            return
        whole = [handle for handle in frame.begins if handle in frame.ends]
        # A quarter at a time, so that the work per request stays constant.
        for handle in whole[: max(len(whole) // 4, 1)]:
            self.unreported_requests += 1
            self.unreported_positions += frame.forget(handle)
