"""The self-test at start: it passes, fails and does not run for the right reasons, and never fails the server."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from monitor.sae import HookPoint
from monitor.tap.outbox import Outbox
from monitor.tap.self_test import STARTING, judge, make_pass
from monitor.tap.sites import Site
from monitor.tap.startup import around_warm_up
from monitor.tap.stats import TapStats
from monitor.tap.wire import heartbeat
from monitor.v1 import tap_pb2


def _site(layer: int, fired: int = 1, value: float = 1.5) -> Site:
    rows_nd = torch.zeros(8, 4)
    rows_nd[:3] = value
    return Site(HookPoint(layer), rows_nd, torch.tensor([fired]), "a toy", None)


def test_hook_points_that_fired_pass_whatever_a_pass_without_attention_left_in_them() -> None:
    result = judge([_site(1, fired=3), _site(2, fired=5, value=float("nan"))], "")
    assert result.outcome == tap_pb2.SelfTest.OUTCOME_PASSED
    assert "2 hook points fired in 3 passes" in result.detail


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (_site(2, fired=0), "resid_post.2 did not fire"),
        (_site(2, value=0.0), "resid_post.2 fired, but its rows are all zero"),
    ],
)
def test_one_bad_hook_point_fails(bad: Site, says: str) -> None:
    result = judge([_site(1), bad], "")
    assert (result.outcome, result.detail) == (tap_pb2.SelfTest.OUTCOME_FAILED, says)


def test_an_engine_without_passes_is_made_to_make_one() -> None:
    sites = [_site(1, fired=0)]
    passes: list[int] = []

    def execute_dummy_batch() -> None:
        passes.append(1)
        sites[0].fired.add_(1)

    worker = SimpleNamespace(execute_dummy_batch=execute_dummy_batch)
    assert make_pass(worker, sites, workers=1) == ""
    assert judge(sites, "").outcome == tap_pb2.SelfTest.OUTCOME_PASSED
    # There has been one.
    assert make_pass(worker, sites, workers=1) == ""
    assert len(passes) == 1


def test_one_of_many_workers_makes_no_pass_alone() -> None:
    sites = [_site(1, fired=0)]
    why = make_pass(SimpleNamespace(), sites, workers=2)
    result = judge(sites, why)
    assert result.outcome == tap_pb2.SelfTest.OUTCOME_NOT_RUN
    assert "all 2 workers" in result.detail


def test_a_pass_that_fails_costs_the_self_test_and_nothing_else() -> None:
    def execute_dummy_batch() -> None:
        raise MemoryError("no room")

    sites = [_site(1, fired=0)]
    result = judge(sites, make_pass(SimpleNamespace(execute_dummy_batch=execute_dummy_batch), sites, workers=1))
    assert result.outcome == tap_pb2.SelfTest.OUTCOME_NOT_RUN
    assert "MemoryError: no room" in result.detail


def test_a_device_that_cannot_be_read_fails_the_test_and_not_the_server() -> None:
    broken = Site(HookPoint(1), None, torch.tensor([1]), "a toy", None)  # type: ignore[arg-type]
    result = judge([broken], "")
    assert result.outcome == tap_pb2.SelfTest.OUTCOME_FAILED
    assert "could not be made: TypeError" in result.detail


def test_the_engine_serves_once_it_has_warmed_up() -> None:
    sites, served, order = [_site(1, fired=0)], [], []

    class Worker:
        def execute_dummy_batch(self) -> None:
            order.append("pass")
            sites[0].fired.add_(1)

        def compile_or_warm_up_model(self) -> str:
            order.append("warm-up")
            return "times"

    worker = Worker()
    around_warm_up(worker, sites, 1, served.append)
    assert worker.compile_or_warm_up_model() == "times"
    assert order == ["pass", "warm-up"]
    assert [result.outcome for result in served] == [tap_pb2.SelfTest.OUTCOME_PASSED]
    assert vars(worker) == {}


def test_the_sidecar_is_told() -> None:
    stats = TapStats()
    beat = heartbeat(stats, Outbox(8, 1 << 20)).heartbeat
    assert (beat.self_test.outcome, beat.self_test.detail) == (STARTING.outcome, STARTING.detail)
    stats.self_test = judge([_site(1, fired=0)], "")
    stats.on_step.add(7)
    stats.encode.add(5)
    stats.publish.add(3)
    stats.rejected_draft_rows = 2
    beat = heartbeat(stats, Outbox(8, 1 << 20)).heartbeat
    assert beat.self_test.outcome == tap_pb2.SelfTest.OUTCOME_FAILED
    assert (beat.engine_thread_nanos, beat.encode_nanos, beat.publish_nanos) == (7, 5, 3)
    assert beat.rejected_draft_rows == 2
    assert beat.attached_nanos > 0
    assert "self-test failed (resid_post.1 did not fire)" in stats.summary()
