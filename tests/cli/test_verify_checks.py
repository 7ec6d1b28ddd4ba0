"""`featurewatch verify`: from what was observed to verdicts."""

from __future__ import annotations

import json

import pytest

from monitor.cli.verify.canaries import LENGTHS, Canary, Server, prompts
from monitor.cli.verify.checks import (
    Check,
    check_coverage,
    check_differences,
    check_overhead,
    check_self_test,
    check_taps,
)
from monitor.cli.verify.report import as_json
from monitor.cli.verify.truth import Difference
from monitor.errors import FeaturewatchError
from monitor.v1.coverage_pb2 import Coverage
from monitor.v1.generations_pb2 import GenerationSummary
from monitor.v1.policies_pb2 import TapStatus
from monitor.v1.tap_pb2 import Heartbeat, SelfTest

CANARY = Canary("cmpl-1", tuple(range(10)), 6)


def tap(**beat: object) -> TapStatus:
    return TapStatus(tap_id="t", heartbeat=Heartbeat(**beat))  # type: ignore[arg-type]


def failed(checks: list[Check]) -> list[str]:
    return [check.name for check in checks if not check.ok]


def seen(**coverage: int) -> dict[str, list[GenerationSummary]]:
    return {"cmpl-1": [GenerationSummary(coverage=Coverage(**coverage))]}


def test_a_healthy_tap_passes() -> None:
    passed = SelfTest(outcome=SelfTest.OUTCOME_PASSED, detail="2 hook points")
    assert failed(check_self_test([tap(steps=5, steps_fired=5, self_test=passed)])) == []


@pytest.mark.parametrize(
    ("beat", "name"),
    [
        ({"steps": 5, "steps_fired": 4}, "steps of t"),
        ({"steps": 0, "steps_fired": 0}, "steps of t"),
        ({"steps": 5, "steps_fired": 5, "self_test": SelfTest(outcome=SelfTest.OUTCOME_FAILED)}, "self-test of t"),
    ],
)
def test_a_silent_tap_fails(beat: dict[str, object], name: str) -> None:
    assert failed(check_self_test([tap(**beat)])) == [name]


def test_a_tap_that_went_away_fails() -> None:
    assert check_taps([tap()], [tap()]).ok
    assert not check_taps([tap()], []).ok


def test_errors_fail() -> None:
    status = tap(steps=1, steps_fired=1)
    status.errors = 1
    assert failed(check_self_test([status])) == ["errors of t"]


def test_restored_positions_count_as_covered() -> None:
    assert failed(check_coverage([CANARY], seen(positions=9, observed=5, restored=4), "canaries")) == []


@pytest.mark.parametrize(
    ("coverage", "names"),
    [
        ({"positions": 9, "observed": 8, "unseen": 1}, ["canaries coverage"]),
        ({"positions": 9, "observed": 8, "dropped": 1}, ["canaries coverage"]),
        ({"positions": 9, "observed": 8}, ["canaries books"]),
        ({"positions": 8, "observed": 8}, ["canaries books"]),
    ],
)
def test_lost_positions_and_wrong_books_fail(coverage: dict[str, int], names: list[str]) -> None:
    assert failed(check_coverage([CANARY], seen(**coverage), "canaries")) == names


def test_a_canary_that_never_arrived_fails() -> None:
    assert failed(check_coverage([CANARY], {"cmpl-1": []}, "canaries")) == ["canaries seen", "canaries coverage"]


@pytest.mark.parametrize(
    ("difference", "ok"),
    [
        (Difference("resid_post.1", 9, 1e-5, 1e-6), True),
        (Difference("resid_post.1", 9, 2e-4, 1e-6), False),
        (Difference("resid_post.1", 8, 1e-5, 1e-6), False),
        (Difference("resid_post.1", 9, float("nan"), 1e-6), False),
        (Difference("resid_post.1", 0, float("inf"), float("inf")), False),
    ],
)
def test_rows_must_be_all_there_and_right(difference: Difference, ok: bool) -> None:
    assert [check.ok for check in check_differences([difference], 9, 1e-4)] == [ok]


def test_overhead_is_the_share_between_two_heartbeats() -> None:
    before = tap(steps=10, engine_thread_nanos=1_000_000)
    after = tap(steps=20, engine_thread_nanos=5_000_000)
    (check,) = check_overhead([before], [after], 0.1, 0.05)
    assert check.ok
    assert check.found.startswith("4.00 % of the engine's thread, 400 us a step, 10 steps")
    assert failed(check_overhead([before], [after], 0.1, 0.03)) == ["overhead of t"]
    assert failed(check_overhead([before], [before], 0.1, 0.05)) == ["overhead of t"]


def test_prompts_differ_from_run_to_run_and_in_length() -> None:
    one, other = prompts(), prompts()
    assert len({*one, *other}) == 2 * len(LENGTHS)
    assert [len(text) for text in one] == [len(text) for text in other] == [13 + length for length in LENGTHS]


def test_json_says_whether_all_is_well() -> None:
    assert json.loads(as_json([Check("a", "b", "c", True)]))["ok"] is True
    assert json.loads(as_json([Check("a", "b", "c", True), Check("d", "e", "f", False)])) == {
        "ok": False,
        "checks": [
            {"name": "a", "found": "b", "wanted": "c", "ok": True},
            {"name": "d", "found": "e", "wanted": "f", "ok": False},
        ],
    }


def test_no_server_is_one_readable_error() -> None:
    with pytest.raises(FeaturewatchError, match="no OpenAI-compatible server answered"):
        Server("http://127.0.0.1:9").models()
