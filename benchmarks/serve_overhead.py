"""What the tap and the sidecar cost a serving engine: interleaved A/B rounds in one run.

    python benchmarks/serve_overhead.py MODEL_FOLDER [--compiled] [--rounds 10] [--tokens 128] [--directions 64]

Method. Two vLLM servers of the same model run side by side: A plain, B with the tap at `--hook-points` and a real
`featurewatch sidecar` that judges `--directions` random SAE latents per hook point in shadow mode (the work per row
does not depend on what the latents mean; thresholds are out of reach, so no alert is written). Only one server has
traffic at a time. A round sends `--concurrency` streaming chat requests at once, all with the same number of output
tokens, to one server; rounds alternate A B B A, after one discarded warm-up round each. Both sides
of a pair get the same prompts; from round to round and request to request they differ, so that no prefix-cache hit
saves work. Per round: output tokens per second and the gaps
between streamed tokens (client's clock). Each pair of neighbouring rounds gives one ratio B/A; printed are minimum,
median and maximum over the pairs. Client, two API servers, sidecar and engines share this machine's cores, so the
sidecar's own work counts against B: with spare cores the cost is lower. The idle server of a pair holds memory but,
once drained, runs no step. The noise floor is printed too: A's own rounds against their median.

Where the time goes comes from the tap's own counters (`time in the engine's thread`, `publish thread`), which server B
logs every 30 seconds and when it stops.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import json
import os
import random
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from monitor.cli.demo.processes import Child, running
from monitor.cli.demo.servers import free_port, sidecar_ready, vllm_ready
from monitor.errors import FeaturewatchError
from monitor.sae import Dictionary, HookPoint, JumpRelu, save_saelens

SERVED = "bench"
WORDS = ["river", "stone", "garden", "winter", "engine", "paper", "silver", "bridge", "market", "letter", "forest"]
WORDS += ["signal", "candle", "harbour", "window", "thunder", "copper", "basket", "morning", "violin", "ladder"]


@dataclass(frozen=True)
class Round:
    """One burst of requests: output tokens, wall time, and the seconds between neighbouring tokens of a stream."""

    tokens: int
    seconds: float
    gaps_s: list[float]

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.seconds

    def gap(self, share: float) -> float:
        return float(np.quantile(self.gaps_s, share))


def main() -> None:
    options = _options()
    with tempfile.TemporaryDirectory(prefix="fw-bench-") as name:
        folder = Path(name)
        try:
            _run(options, folder)
        except FeaturewatchError as error:
            sys.exit(f"error: {error}")


def _run(options: argparse.Namespace, folder: Path) -> None:
    target = f"unix:{folder}/s.sock"
    hook_points = [HookPoint.parse(text) for text in options.hook_points.split(",")]
    width = int(json.loads((Path(options.model) / "config.json").read_text())["hidden_size"])
    policy = _write_policy(folder, hook_points, width, options.directions)
    with ExitStack() as stack:
        command = [sys.executable, "-m", "monitor.cli.main", "sidecar", "--listen", target, "--policies", str(policy)]
        command += ["--zoo", str(folder / "zoo"), "--store", str(folder / "audit.sqlite")]
        command += ["--alerts-jsonl", str(folder / "alerts.jsonl")]
        sidecar = stack.enter_context(running(Child("the sidecar", command, folder / "sidecar.log")))
        sidecar.wait_until(lambda: sidecar_ready(target), 300, _say)
        ports = {"A": free_port(), "B": free_port()}
        tap = {"featurewatch": {"sidecar": target, "hook_points": [str(point) for point in hook_points]}}
        for side, config in (("A", None), ("B", tap)):
            server = _start(options, folder, side, ports[side], config)
            stack.enter_context(running(server))
            server.wait_until(lambda side=side: vllm_ready(ports[side]), 900, _say)
        rounds = _rounds(options, ports)
        sidecar_cpu_s = _cpu_seconds(sidecar.pid)
    _report(options, rounds, folder)
    print(f"  the sidecar's process used {sidecar_cpu_s:.1f} s of CPU in all, its start included")


def _cpu_seconds(pid: int) -> float:
    """User and system time of a process (Linux)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _rounds(options: argparse.Namespace, ports: dict[str, int]) -> list[tuple[Round, Round]]:
    for side in "AB":
        _round(options, ports[side], seed="warm")
    pairs = []
    for number in range(options.rounds):
        result = {}
        for side in "AB" if number % 2 == 0 else "BA":
            result[side] = _round(options, ports[side], seed=str(number))
        a, b = result["A"], result["B"]
        pairs.append((a, b))
        print(
            f"round {number + 1}: A {a.tokens_per_second:6.1f} tok/s, B {b.tokens_per_second:6.1f} tok/s, "
            f"ratio {b.tokens_per_second / a.tokens_per_second:.3f}",
            flush=True,
        )
    return pairs


def _round(options: argparse.Namespace, port: int, seed: str) -> Round:
    from openai import OpenAI

    client = OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0, timeout=600)
    chance = random.Random(seed)
    prompts = [" ".join(chance.choices(WORDS, k=chance.randint(20, 60))) for _ in range(options.concurrency)]

    def stream(prompt: str) -> list[float]:
        answer = client.chat.completions.create(
            model=SERVED,
            messages=[{"role": "user", "content": f"Write a long story with these words: {prompt}"}],
            max_tokens=options.tokens,
            temperature=0.0,
            stream=True,
            extra_body={"ignore_eos": True},
        )
        return [time.perf_counter() for chunk in answer if chunk.choices and chunk.choices[0].delta.content is not None]

    start = time.perf_counter()
    with concurrent.futures.ThreadPoolExecutor(options.concurrency) as pool:
        streams = list(pool.map(stream, prompts))
    seconds = time.perf_counter() - start
    gaps = [later - earlier for times in streams for earlier, later in pairwise(times)]
    return Round(options.concurrency * options.tokens, seconds, gaps)


def _report(options: argparse.Namespace, rounds: Sequence[tuple[Round, Round]], folder: Path) -> None:
    print(f"\n{options.model}, {'compiled' if options.compiled else 'eager'}, {options.concurrency} streams at once, ")
    print(f"{options.hook_points} x {options.directions} directions, {len(rounds)} pairs of rounds; B / A:")
    print(f"{'':28}{'min':>8}{'median':>8}{'max':>8}")
    _line("throughput", [b.tokens_per_second / a.tokens_per_second for a, b in rounds])
    _line("inter-token latency p50", [b.gap(0.5) / a.gap(0.5) for a, b in rounds])
    _line("inter-token latency p99", [b.gap(0.99) / a.gap(0.99) for a, b in rounds])
    own = [a.tokens_per_second for a, _ in rounds]
    _line("noise: A / median of A", [value / statistics.median(own) for value in own])
    total_a, total_b = (sum(pair[side].seconds for pair in rounds) for side in (0, 1))
    print(f"{'throughput, all rounds':28}{'':8}{total_a / total_b:8.3f}")
    print(
        f"A: {statistics.median(own):.1f} tok/s, p50 {1000 * statistics.median(a.gap(0.5) for a, _ in rounds):.1f} ms"
    )
    print("where the tap's time goes (all of B's rounds, the warm-up too):")
    log = (folder / "B.log").read_text(errors="replace").splitlines()
    for line in [line for line in log if "featurewatch: steps" in line][-1:]:
        print("  " + line.split("featurewatch: ", 1)[1])
        if match := re.search(r"time in the engine's thread ([0-9]+) x ([0-9]+) us", line):
            share = int(match[1]) * int(match[2]) / 1e6 / (total_b * (len(rounds) + 1) / len(rounds))
            print(f"  the engine's thread spends about {100 * share:.2f} % of the time in the tap")


def _line(name: str, values: Sequence[float]) -> None:
    print(f"{name:28}{min(values):8.3f}{statistics.median(values):8.3f}{max(values):8.3f}")


def _start(options: argparse.Namespace, folder: Path, side: str, port: int, config: object) -> Child:
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", options.model]
    command += ["--served-model-name", SERVED, "--host", "127.0.0.1", "--port", str(port), "--dtype", options.dtype]
    command += ["--max-model-len", "2048"]
    if config is not None:
        command += ["--additional-config", json.dumps(config)]
    if not options.compiled:
        command.append("--enforce-eager")
    env = {
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_USE_V2_MODEL_RUNNER": "0",
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
    }
    return Child(f"vLLM {side}", command, folder / f"{side}.log", env)


def _write_policy(folder: Path, hook_points: Sequence[HookPoint], width: int, directions: int) -> Path:
    """A zoo of random JumpReLU SAEs and a policy in shadow mode that watches all their latents."""
    chance = np.random.default_rng(0)
    detectors = []
    for point in hook_points:
        weights_md = (chance.normal(size=(directions, width)) / np.sqrt(width)).astype(np.float32)
        zeros_m = np.zeros(directions, np.float32)
        sae = Dictionary(
            w_enc_md=weights_md,
            b_enc_m=zeros_m,
            w_dec_md=weights_md,
            b_dec_d=np.zeros(width, np.float32),
            activation=JumpRelu(zeros_m + 0.5),
            hook_point=point,
            model=SERVED,
        )
        save_saelens(sae, folder / "zoo" / SERVED / str(point))
        latents = ", ".join(f"{{index: {index}}}" for index in range(directions))
        detectors.append(
            f"    - id: d{point.layer}\n"
            f"      source: {{saeLatents: {{sae: {SERVED}/{point}, latents: [{latents}], combine: weighted_sum}}}}\n"
            "      aggregate: {kind: ema, halfLife: 8}\n"
            "      threshold: {fire: 1.0e+30}\n"
        )
    when = " or ".join(f"d{point.layer}.fire" for point in hook_points)
    policy = folder / "policies" / "bench.yaml"
    policy.parent.mkdir()
    policy.write_text(
        "apiVersion: monitor/v1\nkind: Policy\n"
        "metadata: {name: bench, revision: 1, owner: bench, status: test}\n"
        "spec:\n  mode: shadow\n  match: {models: ['*'], phases: [prompt, response]}\n"
        f"  detectors:\n{''.join(detectors)}"
        f"  rules:\n    - {{id: BENCH-1, when: '{when}', for: 1 tokens, severity: low, actions: [alert]}}\n"
    )
    return policy.parent


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Throughput and inter-token latency with tap and sidecar, as ratios.")
    parser.add_argument("model", help="Hugging Face folder of a chat model")
    parser.add_argument("--compiled", action="store_true", help="under torch.compile instead of eager")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--hook-points", default="resid_post.10,resid_post.14")
    parser.add_argument("--directions", type=int, default=64, help="watched latents per hook point")
    parser.add_argument("--concurrency", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=128, help="output tokens per request")
    parser.add_argument("--rounds", type=int, default=10, help="pairs of rounds")
    return parser.parse_args()


def _say(line: str) -> None:
    """Waiting is silent; a failure prints the log's end."""


if __name__ == "__main__":
    main()
