"""Frames as protobuf messages."""

from __future__ import annotations

import time

from monitor.rpc import floats_to_bytes, ints_to_bytes
from monitor.tap.frame import Frame
from monitor.tap.outbox import Outbox
from monitor.tap.record import HostRows
from monitor.tap.stats import TapStats
from monitor.v1 import tap_pb2


def step_frame(frame: Frame, rows: HostRows | None) -> tap_pb2.StreamRequest:
    """A StepFrame; `rows` are those of the frame's segments, in their order."""
    message = tap_pb2.StepFrame(
        seq=frame.seq,
        plan_version=frame.plan_version if rows is not None else 0,
        forward_end_unix_nanos=frame.time_unix_nanos,
        begins=[
            tap_pb2.RequestBegin(
                handle=begin.handle,
                request_id=begin.request_id,
                external_id=begin.external_id,
                prompt_token_ids=begin.prompt_token_ids,
                start_unix_nanos=begin.start_unix_nanos,
                adapter=begin.adapter,
                resumed=begin.resumed,
                cache_salt_sha256=begin.cache_salt_sha256,
                content_keys=[tap_pb2.ContentKey(position=at, key=key) for at, key in begin.content_keys],
                tenant=begin.tenant,
            )
            for begin in frame.begins.values()
        ],
        gaps=[
            tap_pb2.Gap(handle=gap.handle, first_position=gap.first, count=gap.length, reason=gap.reason)  # type: ignore[arg-type]
            for gaps in frame.gaps.values()
            for gap in gaps
        ],
        ends=[
            tap_pb2.RequestEnd(
                handle=end.handle,
                positions=end.positions,
                tail_token_ids=end.tail_token_ids,
                end_unix_nanos=end.end_unix_nanos,
            )
            for end in frame.ends.values()
        ],
    )
    if rows is not None:
        message.handles.extend([segment.handle for segment in frame.segments])
        message.first_positions.extend([segment.first for segment in frame.segments])
        message.row_counts.extend([segment.length for segment in frame.segments])
        message.token_ids = ints_to_bytes(rows.token_ids_n)
        for hook_point, acts_nk in rows.activations:
            message.activations.add(hook_point=hook_point, values=floats_to_bytes(acts_nk))
    return tap_pb2.StreamRequest(step=message)


def heartbeat(stats: TapStats, outbox: Outbox) -> tap_pb2.StreamRequest:
    """The tap's counters, now."""
    return tap_pb2.StreamRequest(
        heartbeat=tap_pb2.Heartbeat(
            sent_unix_nanos=time.time_ns(),
            steps=stats.steps,
            steps_fired=stats.steps_fired - stats.silent_steps,
            rows=stats.rows,
            dropped_rows=outbox.dropped_rows,
            errors=stats.errors,
            unreported_requests=outbox.unreported_requests,
            unreported_positions=outbox.unreported_positions,
            attached_nanos=time.monotonic_ns() - stats.attached_nanos,
            engine_thread_nanos=stats.on_step.total_nanos,
            encode_nanos=stats.encode.total_nanos,
            publish_nanos=stats.publish.total_nanos + stats.capture.total_nanos,
            rejected_draft_rows=stats.rejected_draft_rows,
            self_test=tap_pb2.SelfTest(outcome=stats.self_test.outcome, detail=stats.self_test.detail),  # type: ignore[arg-type]
        )
    )
