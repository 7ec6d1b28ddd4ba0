"""From what was observed to verdicts. Pure: nothing is asked here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from monitor.cli.verify.canaries import Canary
from monitor.cli.verify.truth import Difference
from monitor.v1.generations_pb2 import GenerationSummary
from monitor.v1.policies_pb2 import TapStatus
from monitor.v1.tap_pb2 import SelfTest

TOLERANCES: Final = {"float32": 1e-4, "float16": 2e-2, "bfloat16": 1e-1}
"""Largest relative error of a row against a float32 reference, by the engine's dtype. In float32 it is what the
project's tests hold the tap to; the others leave room for the engine's own rounding, and a hook point that is off by
one layer or row is far beyond them."""


@dataclass(frozen=True)
class Check:
    """One line of the report.

    Attributes:
        name: what was looked at.
        found: what was seen, in words.
        wanted: the rule.
        ok: False fails the deployment.
    """

    name: str
    found: str
    wanted: str
    ok: bool


def check_taps(before: Sequence[TapStatus], after: Sequence[TapStatus]) -> Check:
    """Whether those that were there are still there."""
    gone = sorted({tap.tap_id for tap in before} - {tap.tap_id for tap in after})
    found = f"{', '.join(gone)} gone" if gone else f"{len(after)} connected"
    return Check("taps", found, "none goes away meanwhile", not gone)


def check_self_test(taps: Sequence[TapStatus]) -> list[Check]:
    """The passes at start, and whether every hook point fired in every step since."""
    checks = []
    for tap in taps:
        beat, test = tap.heartbeat, tap.heartbeat.self_test
        outcome = SelfTest.Outcome.Name(test.outcome).removeprefix("OUTCOME_").lower().replace("_", " ")
        found = f"{outcome}: {test.detail}" if test.detail else outcome
        failed = test.outcome == SelfTest.OUTCOME_FAILED
        checks.append(Check(f"self-test of {tap.tap_id}", found, "not failed", not failed))
        checks.append(
            Check(
                f"steps of {tap.tap_id}",
                f"{beat.steps_fired} of {beat.steps} with every hook point",
                "all, at least one",
                0 < beat.steps == beat.steps_fired,
            )
        )
        checks.append(Check(f"errors of {tap.tap_id}", f"{tap.errors}", "0", tap.errors == 0))
    return checks


def check_coverage(canaries: Sequence[Canary], found: dict[str, list[GenerationSummary]], what: str) -> list[Check]:
    """Whether each canary reached the sidecar whole: each position observed or restored, and their number right."""
    missing = [canary for canary in canaries if not found[canary.request_id]]
    checks = [
        Check(f"{what} seen", f"{len(canaries) - len(missing)} of {len(canaries)} requests", "all", not missing),
    ]
    seen = restored = lost = positions = wrong = 0
    for canary in canaries:
        for summary in found[canary.request_id]:
            coverage = summary.coverage
            seen, restored = seen + coverage.observed, restored + coverage.restored
            lost += coverage.dropped + coverage.unseen
            positions += coverage.positions
            total = coverage.observed + coverage.restored + coverage.dropped + coverage.unseen
            wrong += total != coverage.positions or coverage.positions != canary.positions
    told = f"{seen} observed, {restored} restored, {lost} lost of {positions}"
    checks.append(Check(f"{what} coverage", told, "no position lost", lost == 0 and positions > 0))
    checks.append(Check(f"{what} books", f"{wrong} requests whose positions do not add up", "0", wrong == 0))
    return checks


def check_differences(differences: Sequence[Difference], rows_wanted: int, tolerance: float) -> list[Check]:
    """The tap's rows against Hugging Face."""
    checks = []
    for difference in differences:
        found = f"worst {difference.worst:.1e}, median {difference.median:.1e} over {difference.rows} rows"
        good = difference.worst <= tolerance and difference.rows == rows_wanted
        wanted = f"at most {tolerance:.0e}, {rows_wanted} rows"
        checks.append(Check(f"error at {difference.hook_point}", found, wanted, good))
    return checks


def check_overhead(
    before: Sequence[TapStatus], after: Sequence[TapStatus], seconds: float, limit: float
) -> list[Check]:
    """The share of the `seconds` of the canaries that the engine's thread spent in the tap."""
    checks = []
    earlier = {tap.tap_id: tap.heartbeat for tap in before}
    for tap in after:
        now, then = tap.heartbeat, earlier.get(tap.tap_id)
        if then is None:
            continue
        steps = now.steps - then.steps
        spent_ns = now.engine_thread_nanos - then.engine_thread_nanos
        share = spent_ns / 1e9 / seconds
        each = spent_ns / steps / 1000 if steps else 0.0
        found = f"{100 * share:.2f} % of the engine's thread, {each:.0f} us a step, {steps} steps"
        wanted = f"at most {100 * limit:.1f} %, more than 0 steps"
        checks.append(Check(f"overhead of {tap.tap_id}", found, wanted, share <= limit and steps > 0))
    return checks
