"""Did every hook point's operation run in the passes that the engine makes before it serves?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from monitor.tap.log import logger
from monitor.tap.sites import Site
from monitor.v1 import tap_pb2

_PASSED: Final = tap_pb2.SelfTest.OUTCOME_PASSED
_FAILED: Final = tap_pb2.SelfTest.OUTCOME_FAILED
_NOT_RUN: Final = tap_pb2.SelfTest.OUTCOME_NOT_RUN

_ROWS: Final = 256
"""Rows that are looked at: every pass fills the buffer from its first row on."""


class SelfTest(NamedTuple):
    """What came of it; `outcome` is a `tap_pb2.SelfTest.Outcome`."""

    outcome: int
    detail: str

    def __str__(self) -> str:
        return f"{tap_pb2.SelfTest.Outcome.Name(self.outcome).removeprefix('OUTCOME_').lower()} ({self.detail})"  # type: ignore[arg-type]


STARTING: Final = SelfTest(_NOT_RUN, "the engine is starting")


def make_pass(worker: Any, sites: Sequence[Site], workers: int) -> str:
    """Has the engine make the pass that it makes for idle data-parallel ranks, if it made none of its own yet.

    To be called before vLLM's own warm-up, which sets the random state anew.

    Args:
        workers: of this engine. A pass on one of many would wait for the others for ever.

    Returns:
        Why no pass was made although none was there; empty otherwise.
    """
    if any(int(site.fired) for site in sites):
        return ""
    if workers > 1:
        return f"this engine makes no pass when it starts, and one of the tap's own would need all {workers} workers"
    try:
        worker.execute_dummy_batch()
    except Exception as error:  # noqa: BLE001 -- the server starts without a self-test then
        logger.exception("featurewatch: the pass for the self-test failed")
        return f"the pass for it failed: {type(error).__name__}: {error}"
    return ""


def judge(sites: Sequence[Site], no_pass: str) -> SelfTest:
    """Reads counters and buffers, so waits for the device. Never raises.

    Args:
        no_pass: what `make_pass` returned.
    """
    try:
        return _judge(sites, no_pass)
    except Exception as error:  # noqa: BLE001 -- whatever the device reports, the server starts
        logger.exception("featurewatch: the self-test failed")
        return SelfTest(_FAILED, f"it could not be made: {type(error).__name__}: {error}")


def _judge(sites: Sequence[Site], no_pass: str) -> SelfTest:
    findings = [finding for site in sites if (finding := _fault(site))]
    if not findings:
        passes = min(int(site.fired) for site in sites)
        return SelfTest(_PASSED, f"{len(sites)} hook points fired in {passes} passes or more")
    if no_pass and not any(int(site.fired) for site in sites):
        return SelfTest(_NOT_RUN, no_pass)
    return SelfTest(_FAILED, "; ".join(findings))


def _fault(site: Site) -> str:
    if not int(site.fired):
        return f"{site.hook_point} did not fire"
    # Whether the rows are finite tells nothing: passes without requests skip attention, whose output is then whatever
    # the memory held.
    return "" if bool(site.buffer_nd[:_ROWS].ne(0).any()) else f"{site.hook_point} fired, but its rows are all zero"
