"""Frames on their way to the sidecar: bounded, in order, sent again after a reconnect, and honest about what is lost.

Pure bookkeeping: no I/O, no threads (the publisher holds a lock around it). What it guarantees, for every request and
within one sidecar session: it is announced once, before anything else is said of it; rows and gaps follow in ascending
order without overlap or hole; its end comes last.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from monitor.rpc import MAX_MESSAGE_BYTES
from monitor.tap.frame import Frame
from monitor.tap.record import NO_PLAN, QUEUE_FULL, SIDECAR_LOST, Begin, Gap, Step

DEFAULT_WINDOW: Final = 256
"""Most frames sent and not acknowledged, unless the sidecar asks for fewer."""

_ROWS: Final = -1


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
    What is larger than `max_frame_bytes` goes in several frames: gRPC would refuse it at every attempt.
    """

    def __init__(
        self,
        max_frames: int,
        max_bytes: int,
        max_requests: int = 4096,
        max_frame_bytes: int = MAX_MESSAGE_BYTES // 2,
    ) -> None:
        self._max_frames, self._max_bytes, self._max_requests = max_frames, max_bytes, max_requests
        self._max_frame_bytes = max_frame_bytes
        self._frames: deque[Frame] = deque()
        self._sent = 0
        self._bytes = 0
        self._next_seq = 1
        self._window = DEFAULT_WINDOW
        self._session = ""
        # Of this session's plans: the latest version by digest, and all pairs.
        self._versions: dict[str, int] = {}
        self._plans: set[tuple[str, int]] = set()
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
        frame = Frame.of(step)
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
        tail.join(frame)
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
                self.blank(frame, SIDECAR_LOST if frame.lost else NO_PLAN)
            elif (frame.plan_digest, frame.encoded_version) in self._plans:
                # Not the latest of the same content: versions must not go back from one frame to the next.
                frame.plan_version = frame.encoded_version
            else:
                frame.plan_version = version
        if not frame.seq:
            frame = self._cut(frame)
            frame.seq, self._next_seq = self._next_seq, self._next_seq + 1
        self._sent += 1
        return frame

    def _cut(self, frame: Frame) -> Frame:
        """Puts as many frames as needed in the place of one that is too large for a message; returns the first."""
        if frame.nbytes <= self._max_frame_bytes:
            return frame
        parts = frame.split(self._max_frame_bytes)
        del self._frames[self._sent]
        for part in reversed(parts):
            self._frames.insert(self._sent, part)
        self._bytes += sum(part.nbytes for part in parts) - frame.nbytes
        return parts[0]

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
        self._versions, self._plans = {}, set()
        for index, frame in enumerate(self._frames):
            frame.lost = frame.lost or (index < self._sent and not first_session)
            frame.seq = 0
        self._sent = 0
        self._announce_again()

    def plan(self, digest: str, version: int) -> None:
        """Rows encoded under the plan with this digest may be sent, as `version`, for the rest of the session."""
        self._versions[digest] = version
        self._plans.add((digest, version))

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

    def _forget_oldest(self, frame: Frame) -> None:
        """Keeps a frame of pure bookkeeping, which grows through an outage, within bounds."""
        if len(frame.begins) <= self._max_requests and frame.nbytes <= self._max_bytes:
            return
        whole = [handle for handle in frame.begins if handle in frame.ends]
        # A quarter at a time, so that the work per request stays constant.
        for handle in whole[: max(len(whole) // 4, 1)]:
            self.unreported_requests += 1
            self.unreported_positions += frame.forget(handle)
