"""A request's tenant, from the client's `vllm_xargs` to the message that announces it."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

import pytest
from support.real_scheduler import Mode
from support.tapped_scheduler import Arrival, TappedScheduler

from monitor.tap.frame import Frame
from monitor.tap.outbox import Outbox
from monitor.tap.record import Begin, End, Step
from monitor.tap.tap import DETACH_AFTER_ERRORS
from monitor.tap.tenant import tenant_of
from monitor.tap.wire import step_frame

MODES = [Mode("v1", asynchronous=False, drafts=0), Mode("v2", asynchronous=False, drafts=0)]


def _engine(mode: Mode) -> TappedScheduler:
    return TappedScheduler(mode, seed=0, blocks=64, prefix_caching=True, lag=0, faults=0.0)


def _arrivals(*extra_args: dict[str, Any] | None) -> list[Arrival]:
    return [Arrival(1, (5, 6, 7), 3, None, arguments) for arguments in extra_args]


def _begins(engine: TappedScheduler) -> dict[str, Begin]:
    return {begin.request_id: begin for step in engine.sink.steps for begin in step.begins}


@pytest.mark.parametrize("mode", MODES, ids=["v1", "v2"])
def test_the_begin_of_a_request_names_its_tenant(mode: Mode) -> None:
    engine = _engine(mode)
    engine.run(_arrivals({"tenant": "acme"}, None, {"session_id": "s"}, {"tenant": "日本 GmbH"}, {"tenant": ""}))
    assert [begin.tenant for begin in _begins(engine).values()] == ["acme", "", "", "日本 GmbH", ""]
    assert engine.stats.engine_errors == 0


@pytest.mark.parametrize("mode", MODES, ids=["v1", "v2"])
def test_a_tenant_that_is_none_costs_an_error_and_nothing_else(mode: Mode, caplog: pytest.LogCaptureFixture) -> None:
    """However many of them clients send: the tap must not detach itself because of what they write."""
    count = DETACH_AFTER_ERRORS + 5
    engine = _engine(mode)
    with caplog.at_level(logging.WARNING, logger="vllm.featurewatch"):
        engine.run(_arrivals(*[{"tenant": "x" * 257}] * count, {"tenant": ["acme"]}, {"tenant": "acme"}))
    begins = _begins(engine)
    assert [begin.tenant for begin in begins.values()] == [""] * (count + 1) + ["acme"]
    assert engine.stats.engine_errors == count + 1
    assert sum(segment.length for step in engine.sink.steps for segment in step.segments) == sum(
        end.positions for step in engine.sink.steps for end in step.ends
    )
    assert "request r0: its tenant has 257 characters, at most 256 are taken" in caplog.text
    assert "xxx" not in caplog.text


@pytest.mark.parametrize("value", ["x" * 257, 7, 1.5, ["acme"], True, b"acme", "\ud800"])
def test_what_is_no_text_of_at_most_256_characters_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match=r"its tenant|surrogates"):
        tenant_of(SimpleNamespace(extra_args={"tenant": value}))


def test_pooling_requests_have_no_tenant() -> None:
    assert tenant_of(None) == ""
    assert tenant_of(SimpleNamespace(extra_args={"tenant": "x" * 256})) == "x" * 256


def test_the_tenant_goes_over_the_wire_and_to_a_sidecar_that_comes_later() -> None:
    outbox = Outbox(max_frames=64, max_bytes=1 << 20)
    outbox.connect("first", 0, 0)
    outbox.offer(Step(1, [Begin(1, "r1", "r1", b"\0" * 8, 1, "", tenant="acme")]))
    told = _next_begin(outbox)
    outbox.acknowledge(1)
    outbox.connect("second", 0, 0)
    again = _next_begin(outbox)
    assert (told.tenant, told.resumed, again.tenant, again.resumed) == ("acme", False, "acme", True)


def _next_begin(outbox: Outbox) -> Any:
    frame = outbox.take()
    assert isinstance(frame, Frame)
    (begin,) = step_frame(frame, None).step.begins
    return begin


def test_a_request_that_begins_and_ends_unsent_leaves_no_bytes_behind() -> None:
    """Its tenant counts while it waits, and not afterwards."""
    frame = Frame(time_unix_nanos=1)
    empty = frame.nbytes
    frame.add_begin(Begin(1, "r1", "r1", b"\0" * 8, 1, "", tenant="x" * 256))
    frame.add_end(End(1, 2, b"", 1))
    assert frame.nbytes > empty + 256
    frame.forget(1)
    assert frame.nbytes == empty
