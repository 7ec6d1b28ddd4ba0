"""How many rows a second the policy engine judges on one core, and what does not change with the requests that live.

    python benchmarks/policy_engine.py [--detectors 32] [--rules 8] [--rounds 20] [--json FILE]

A row is one token of one request, judged by all detectors and rules; the activations are there already. Detectors read
one, three or eight directions each, by every combine, and smooth by every aggregate; they belong to four policies.
Rows come in calls of 1,000, in random order of requests; every call has activations of its own. Each live request gets
its rows in turn: of 10 live requests a call holds 100 rows each, of 10,000 every tenth.

Figures are medians over rounds, the spread is from the first to the third quartile. All runs on one core (Linux).
Nothing is asserted.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from policy_traffic import LONGEST_WINDOW, POLICIES, ROWS, Traffic, activations, policy_set

from monitor.policy import Phase, PolicyEngine, PolicySet
from monitor.policy.tables import DetectorTable

LIVE = (10, 100, 1_000, 10_000)


def spread(values: list[float]) -> dict[str, float]:
    first, middle, third = statistics.quantiles(values, n=4)
    return {"median": middle, "first_quartile": first, "third_quartile": third}


def measure_live(policies: PolicySet, rounds: int) -> dict[str, Any]:
    """Microseconds a row by number of live requests, in turn."""
    traffic = {live: Traffic(policies, live) for live in LIVE}
    for live, one in traffic.items():
        # Until every ring has gone round.
        for _ in range(-(-LONGEST_WINDOW * live // (one.calls * ROWS)) + 1):
            one.round()
    micros: dict[int, list[float]] = {live: [] for live in LIVE}
    for _ in range(rounds):
        for live, one in traffic.items():
            micros[live].append(one.round())
    return {
        str(live): {"micros_a_row": spread(micros[live]), "firings_per_1000_rows": one.firings / one.calls}
        for live, one in traffic.items()
    }


def measure_calls(policies: PolicySet, rounds: int) -> dict[str, dict[str, float]]:
    """Microseconds of one call, by its rows: one token of as many requests, and a piece of one prompt."""
    engine = PolicyEngine(policies, capacity=ROWS)
    slots = np.array([engine.open() for _ in range(ROWS)])
    acts = activations(len(policies.directions), 1)[0]
    found = {}
    for name, rows, slots_n in (
        ("1 row", 1, slots),
        ("16 requests, 1 row each", 16, slots),
        ("256 requests, 1 row each", 256, slots),
        ("1 request, 512 rows", 512, np.full(ROWS, slots[0])),
    ):
        codes = np.zeros(rows, np.uint8)
        work = lambda n=rows, s=slots_n, c=codes: engine.advance(acts[:n], s[:n], c, c + np.uint8(Phase.PROMPT))  # noqa: E731
        found[name] = spread([timed(work) for _ in range(50 * rounds)])
    return found


def timed(work: Callable[[], object]) -> float:
    """Microseconds."""
    begun = time.perf_counter()
    work()
    return 1e6 * (time.perf_counter() - begun)


def measure_start() -> dict[str, float]:
    """Seconds until the first engine of a process is ready: with nothing compiled on disk, and after that."""
    code = (
        "import time, monitor.policy as p; begun = time.perf_counter(); "
        "p.PolicyEngine(p.PolicySet()); print(time.perf_counter() - begun)"
    )
    with tempfile.TemporaryDirectory(prefix="featurewatch-kernels-") as folder:
        environment = {**os.environ, "NUMBA_CACHE_DIR": folder}
        seconds = [
            float(subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, check=True).stdout)
            for _ in range(2)
        ]
    return {"first_seconds": seconds[0], "later_seconds": seconds[1]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--detectors", type=int, default=32)
    parser.add_argument("--rules", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there too")
    options = parser.parse_args()
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    policies = policy_set(options.detectors, options.rules)
    start = measure_start()
    live = measure_live(policies, options.rounds)
    calls = measure_calls(policies, options.rounds)
    medians = [live[str(count)]["micros_a_row"]["median"] for count in LIVE]
    figures = {
        "detectors": options.detectors,
        "rules": options.rules,
        "policies": POLICIES,
        "directions": len(policies.directions),
        "rows_a_second_at_1000_live": 1e6 / live["1000"]["micros_a_row"]["median"],
        "live": live,
        "flatness_10000_to_10": medians[-1] / medians[0],
        "calls": calls,
        "start": start,
        "bytes_per_live_request": PolicyEngine(policies).snapshot_bytes,
        "ring_bytes": 8 * DetectorTable.build(policies).ring_size,
    }
    show(figures)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n")


def show(figures: dict[str, Any]) -> None:
    kinds = "{detectors} detectors over {directions} directions, {rules} rules, {policies} policies; one core"
    print(kinds.format(**figures))
    for count, found in figures["live"].items():
        micros = found["micros_a_row"]
        print(
            f"{int(count):6,} live requests: {1 / micros['median']:.2f} M rows/s, {micros['median']:.3f} us a row "
            f"({micros['first_quartile']:.3f} to {micros['third_quartile']:.3f}), "
            f"{found['firings_per_1000_rows']:.1f} firings per 1,000 rows"
        )
    print(f"a row with 10,000 live requests takes {figures['flatness_10000_to_10']:.2f} times as long as with 10")
    for name, micros in figures["calls"].items():
        print(f"a call with {name}: {micros['median']:.1f} us")
    start = figures["start"]
    print(f"first engine: {start['first_seconds']:.1f} s with nothing compiled, then {start['later_seconds']:.2f} s")
    print("{bytes_per_live_request:,} bytes per live request, {ring_bytes:,} of them in rings".format(**figures))


if __name__ == "__main__":
    main()
