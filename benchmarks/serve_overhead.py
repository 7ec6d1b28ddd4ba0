"""What the tap and the sidecar cost a serving engine: interleaved rounds in one run.

    python benchmarks/serve_overhead.py MODEL_FOLDER [--troubles] [--peers] [--compiled] [--rounds 10] [--tokens 128]

Method. Two vLLM servers of the same model run side by side: A plain, B with the tap at `--hook-points` and a real
`featurewatch sidecar` that judges `--directions` random SAE latents per hook point in shadow mode (see
`serving/watched.py`). Only one server has traffic at a time. A round sends `--concurrency` streaming chat requests at
once, all with the same number of output tokens, to one server. With `--troubles` two more kinds of round go to B: its
sidecar stopped (SIGSTOP) for the whole round, and flooded (it runs 2 % of the time, so more arrives than it takes).
With `--peers` other packages that hook into vLLM are fetched with pip (see `serving/peers.py`); those that allow this
Python and this vLLM serve in rounds of their own, of the others the published figures are printed.
Rounds alternate, forwards and backwards, after one discarded warm-up round of each server. All kinds of a cycle get the
same prompts; between cycles and requests they differ, so that no prefix-cache hit saves work. Per round: output tokens
per second and the gaps between streamed tokens (client's clock). Each cycle gives one ratio to its own round of A;
printed are minimum, median and maximum over the cycles, and A's own rounds against their median: the noise.

Clients, two API servers, sidecar and engines share this machine's cores, so the sidecar's own work counts against B:
with spare cores the cost is lower. The idle server of a pair holds memory but, once drained, runs no step.

Also printed: where the tap's time goes (its own counters), the time from the end of a forward pass to the sidecar's
verdict on its rows (the sidecar's histogram, rounds of B alone), and whether every position that the clients were
served is accounted for.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import sys
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from pathlib import Path

from serving.load import Round, burst
from serving.metrics import labelled, quantile, scrape
from serving.peers import PEERS, obstacle
from serving.servers import Serving, cpu_seconds, start_sidecar, start_vllm, wait_for_sidecar, wait_for_vllm
from serving.trouble import flooded, stalled, wait_until_quiet
from serving.watched import write_policy

from monitor.cli.demo.processes import Child, running
from monitor.cli.demo.servers import free_port
from monitor.errors import FeaturewatchError
from monitor.sae import HookPoint

KINDS = {"B": "tap and sidecar", "S": "sidecar stopped", "F": "sidecar flooded"}
PLAIN, TAPPED, TROUBLED = "A", "B", "SF"
LATENCY = "featurewatch_decision_latency_seconds"
_Rounds = dict[str, list[Round]]


def main() -> None:
    options = _options()
    with tempfile.TemporaryDirectory(prefix="fw-bench-") as name:
        folder = Path(name)
        try:
            _run(options, folder)
        except FeaturewatchError as error:
            sys.exit(f"error: {error}")


def _run(options: argparse.Namespace, folder: Path) -> None:
    target, metrics = f"unix:{folder}/s.sock", free_port()
    hook_points = [HookPoint.parse(text) for text in options.hook_points.split(",")]
    width = int(json.loads((Path(options.model) / "config.json").read_text())["hidden_size"])
    policies = write_policy(folder, hook_points, width, options.directions)
    serving = Serving(options.model, options.dtype, options.compiled, folder)
    with ExitStack() as stack:
        sidecar = stack.enter_context(running(start_sidecar(folder, target, policies, metrics, options.sidecar_cores)))
        wait_for_sidecar(sidecar, target)
        tap = {"sidecar": target, "hook_points": [str(point) for point in hook_points]}
        # A queue of the usual size would hold a whole round, and the troubles would not show.
        tap |= {"queue_frames": 32} if options.troubles else {}
        ports = {"A": free_port(), "B": free_port()}
        for side, config in (("A", None), ("B", tap)):
            server = start_vllm(serving, side, ports[side], config)
            stack.enter_context(running(server))
            wait_for_vllm(server, ports[side])
        for name, environment in (_peers(folder) if options.peers else {}).items():
            ports[name] = free_port()
            server = start_vllm(serving, name, ports[name], environment=environment)
            stack.enter_context(running(server))
            wait_for_vllm(server, ports[name])
        rounds, latency = _cycles(options, ports, sidecar, metrics)
        wait_until_quiet(metrics, print)
        covered = labelled(metrics, "featurewatch_positions_total")
        broken = scrape(metrics).values["featurewatch_coverage_broken_total"]
        sidecar_cpu_s = cpu_seconds(sidecar.pid)
    _report(options, rounds)
    _report_latency(latency)
    _report_tap((folder / "B.log").read_text(errors="replace"), rounds)
    print(f"  the sidecar's process used {sidecar_cpu_s:.1f} s of CPU in all, its start included")
    _report_coverage(covered, broken, sum(one.positions for kind in "WBSF" for one in rounds.get(kind, [])))


def _peers(folder: Path) -> dict[str, dict[str, str]]:
    """Peers that can serve here, with the environment of their servers; tells of the others."""
    found = {}
    for peer in PEERS:
        home = folder / peer.name
        reason = obstacle(peer, home)
        print(f"{peer.name} {peer.version}: {peer.does}" if not reason else f"{peer.name} {peer.version}: {reason}")
        for line in peer.published:
            print(f"  published: {line}")
        if not reason:
            paths = [str(home), os.environ.get("PYTHONPATH", "")]
            found[peer.name] = {"PYTHONPATH": os.pathsep.join(path for path in paths if path)}
    return found


def _cycles(
    options: argparse.Namespace, ports: Mapping[str, int], sidecar: Child, metrics: int
) -> tuple[_Rounds, list[tuple[Mapping[float, float], Mapping[float, float]]]]:
    """All rounds by kind (the warm-up of B under W), and the latency histograms around each round of B alone."""
    rounds: _Rounds = defaultdict(list)
    latency = []
    for side, port in ports.items():
        warm = burst(port, streams=options.concurrency, tokens=options.tokens, seed="warm")
        rounds["W"] += [warm] if side == TAPPED else []
    kinds = [*ports, *(TROUBLED if options.troubles else "")]
    for number in range(options.rounds):
        for kind in kinds if number % 2 == 0 else reversed(kinds):
            around: AbstractContextManager[None] = nullcontext()
            if kind in TROUBLED:
                around = (stalled if kind == "S" else flooded)(sidecar.pid)
            before = scrape(metrics).buckets.get(LATENCY, {})
            with around:
                port = ports[TAPPED if kind in TROUBLED else kind]
                rounds[kind].append(burst(port, streams=options.concurrency, tokens=options.tokens, seed=str(number)))
            wait_until_quiet(metrics, print)
            if kind == TAPPED:
                latency.append((before, scrape(metrics).buckets[LATENCY]))
        plain = rounds[PLAIN][-1].tokens_per_second
        ratios = [f"{kind} {rounds[kind][-1].tokens_per_second / plain:.3f}" for kind in kinds[1:]]
        print(f"cycle {number + 1}: A {plain:6.1f} tok/s, ratios to it: {', '.join(ratios)}", flush=True)
    return rounds, latency


def _report(options: argparse.Namespace, rounds: _Rounds) -> None:
    plain = rounds[PLAIN]
    print(f"\n{options.model}, {'compiled' if options.compiled else 'eager'}, {options.concurrency} streams at once,")
    print(f"{options.hook_points} x {options.directions} directions, {len(plain)} cycles; ratios to the plain engine:")
    print(f"{'':42}{'min':>8}{'median':>8}{'max':>8}")
    for kind, name in {**KINDS, **{peer.name: peer.name for peer in PEERS}}.items():
        pairs = list(zip(plain, rounds.get(kind, []), strict=False))
        if pairs:
            _line(f"throughput, {name}", [b.tokens_per_second / a.tokens_per_second for a, b in pairs])
            _line("  inter-token latency p50", [b.gap(0.5) / a.gap(0.5) for a, b in pairs])
            _line("  inter-token latency p99", [b.gap(0.99) / a.gap(0.99) for a, b in pairs])
            seconds = sum(a.seconds for a, _ in pairs) / sum(b.seconds for _, b in pairs)
            print(f"{'  throughput, all rounds together':42}{'':8}{seconds:8.3f}")
    own = [a.tokens_per_second for a in plain]
    _line("noise: plain rounds / their median", [value / statistics.median(own) for value in own])
    print(
        f"plain: {statistics.median(own):.1f} tok/s, p50 {1000 * statistics.median(a.gap(0.5) for a in plain):.1f} ms"
    )


def _report_latency(around: Sequence[tuple[Mapping[float, float], Mapping[float, float]]]) -> None:
    print("from the end of a forward pass to the verdict on its rows (tap and sidecar healthy):")
    before = {bound: sum(first.get(bound, 0.0) for first, _ in around) for bound in around[0][1]}
    after = {bound: sum(last[bound] for _, last in around) for bound in around[0][1]}
    for share in (0.5, 0.9, 0.99):
        print(f"  p{100 * share:.0f} {1000 * quantile(before, after, share):.2f} ms")


def _report_tap(log: str, rounds: _Rounds) -> None:
    print("where the tap's time goes (all of B's rounds, the warm-up too):")
    lines = [line.split("featurewatch: ", 1)[1] for line in log.splitlines() if "featurewatch: " in line]
    for line in [line for line in lines if "buffers" in line][:1]:
        print(f"  {line}")
    for line in [line for line in lines if line.startswith("steps")][-1:]:
        print(f"  {line}")
        if match := re.search(r"time in the engine's thread ([0-9]+) x ([0-9]+) us", line):
            seconds = sum(one.seconds for kind in "WBSF" for one in rounds.get(kind, []))
            share = int(match[1]) * int(match[2]) / 1e6 / seconds
            print(f"  the engine's thread spends about {100 * share:.2f} % of the time in the tap")


def _report_coverage(covered: Mapping[str, float], broken: float, served: int) -> None:
    total = sum(covered.values())
    print(
        f"accounting: {', '.join(f'{kind} {count:.0f}' for kind, count in sorted(covered.items()))}; in all {total:.0f}"
    )
    print(f"  positions served to the clients {served}; requests whose books do not add up: {broken:.0f}")


def _line(name: str, values: Sequence[float]) -> None:
    print(f"{name:42}{min(values):8.3f}{statistics.median(values):8.3f}{max(values):8.3f}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Throughput and inter-token latency with tap and sidecar, as ratios.")
    parser.add_argument("model", help="Hugging Face folder of a chat model")
    parser.add_argument("--troubles", action="store_true", help="also with a stopped and with a flooded sidecar")
    parser.add_argument("--sidecar-cores", default="", help="cores of the sidecar as in taskset -c; default: any")
    parser.add_argument("--peers", action="store_true", help="also other packages that hook into vLLM (uses pip)")
    parser.add_argument("--compiled", action="store_true", help="under torch.compile instead of eager")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--hook-points", default="resid_post.10,resid_post.14")
    parser.add_argument("--directions", type=int, default=64, help="watched latents per hook point")
    parser.add_argument("--concurrency", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=128, help="output tokens per request")
    parser.add_argument("--rounds", type=int, default=10, help="cycles of rounds")
    return parser.parse_args()


if __name__ == "__main__":
    main()
