"""What a reload of many policies costs the frames that are judged meanwhile.

    python benchmarks/policy_reload.py [--detectors 250] [--rows 16] [--rounds 10] [--json FILE]

A sidecar runs in a process of its own, as in service; this process is its tap. It sends a frame every 5 ms, one row for
each of `--rows` requests, and takes the time from sending it until it is acknowledged: it is judged and published then.
A frame that takes longer delays the next one. In each round such frames are sent for a second, then while all policies
are read again in another revision; then they are read again without any frame. Half of the detectors read a dense
probe from a file of its own, half three latents of an SAE; nothing fires.

Figures are over the frames of all rounds. Nothing is asserted but that every reload was taken over.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import grpc
import numpy as np

from monitor.cli.demo.processes import Child, running
from monitor.cli.demo.servers import sidecar_ready
from monitor.rpc import CHANNEL_OPTIONS, PROTOCOL_VERSION, floats_to_bytes, ints_to_bytes
from monitor.sae import DenseProbe, Dictionary, HookPoint, JumpRelu, save_dense_probe, save_saelens
from monitor.v1.engine_pb2 import EngineInfo
from monitor.v1.policies_pb2 import ReloadPoliciesRequest
from monitor.v1.policies_pb2_grpc import PolicyServiceStub
from monitor.v1.tap_pb2 import Hello, HookActivations, RequestBegin, RequestEnd, StepFrame, StreamRequest, WatchPlan
from monitor.v1.tap_pb2_grpc import TapServiceStub

WIDTH, LATENTS, LAYER = 576, 4608, 10
#: Policies may have at most 256 detectors each; one file has some.
PER_POLICY: Final = 25
EVERY_SECONDS: Final = 0.005
CALM_SECONDS: Final = 1.0
AGGREGATES = (
    "{kind: ema, halfLife: 8}",
    "{kind: rolling_mean, window: 16}",
    "{kind: max}",
    "{kind: count_over, window: 64, over: 1.0}",
    "{kind: cusum, drift: 0.5}",
)


def write_sources(folder: Path, detectors: int) -> None:
    """The SAE and the probes; they stay as they are."""
    rng = np.random.default_rng(0)
    dictionary = Dictionary(
        w_enc_md=rng.standard_normal((LATENTS, WIDTH), np.float32),
        b_enc_m=np.zeros(LATENTS, np.float32),
        w_dec_md=rng.standard_normal((LATENTS, WIDTH), np.float32),
        b_dec_d=np.zeros(WIDTH, np.float32),
        activation=JumpRelu(np.ones(LATENTS, np.float32)),
        hook_point=HookPoint(LAYER),
        model="model",
    )
    save_saelens(dictionary, folder / "zoo" / "model" / f"resid_post.{LAYER}")
    for number in range(0, detectors, 2):
        probe = DenseProbe(HookPoint(LAYER), rng.standard_normal(WIDTH).astype(np.float32), bias=0.0)
        save_dense_probe(probe, folder / "policies" / "weights" / f"{number}.safetensors")


def write_policies(folder: Path, detectors: int, revision: int) -> int:
    """All policies in a revision, with thresholds of its own; returns how many there are."""
    firsts = range(0, detectors, PER_POLICY)
    for first in firsts:
        numbers = range(first, min(first + PER_POLICY, detectors))
        text = (
            f"apiVersion: monitor/v1\nkind: Policy\nmetadata: {{name: p{first}, revision: {revision}}}\n"
            "spec:\n  mode: alert\n  detectors:\n"
        )
        for number in numbers:
            text += f"    - id: d{number}\n      source: {_source(number)}\n"
            text += f"      aggregate: {AGGREGATES[number % len(AGGREGATES)]}\n"
            text += f"      threshold: {{fire: {1e6 + revision}, warn: 1.0e+5}}\n"
        text += "  rules:\n"
        for number in numbers:
            text += f'    - {{id: R{number}, when: "d{number}.fire", for: 2 tokens, severity: low}}\n'
        (folder / "policies" / f"p{first}.yaml").write_text(text)
    return len(firsts)


def _source(number: int) -> str:
    if number % 2 == 0:
        return f"{{denseProbe: {{file: weights/{number}.safetensors}}}}"
    latents = ", ".join(f"{{index: {(3 * number + k) % LATENTS}}}" for k in range(3))
    return f"{{saeLatents: {{sae: model/resid_post.{LAYER}, latents: [{latents}]}}}}"


class Tap:
    """A tap whose requests each get one row a frame."""

    def __init__(self, channel: grpc.aio.Channel, rows: int) -> None:
        self._call: Any = TapServiceStub(channel).Stream(wait_for_ready=True)
        self._rows = rows
        self._handles: list[int] = []
        self._position = self._seq = 0
        self._rng = np.random.default_rng(1)

    async def greet(self) -> None:
        engine = EngineInfo(name="vllm", model="model", num_layers=30, hidden_size=WIDTH, max_model_len=1 << 20)
        hooks = [f"resid_post.{LAYER}"]
        said = Hello(protocol_version=PROTOCOL_VERSION, tap_id="tap", engine=engine, hook_points=hooks)
        await self._call.write(StreamRequest(hello=said))
        await self._call.read()
        self._watch((await self._call.read()).watch_plan)

    async def renew(self) -> None:
        """All requests end, and as many begin: they are judged by what is in force now."""
        ends = [RequestEnd(handle=handle, positions=self._position) for handle in self._handles]
        first = max(self._handles, default=0) + 1
        self._handles, self._position = [*range(first, first + self._rows)], 0
        prompt = ints_to_bytes(np.zeros(1, np.int32))
        begins = [RequestBegin(handle=h, request_id=f"r{h}", prompt_token_ids=prompt) for h in self._handles]
        await self._take(StepFrame(seq=self._next(), begins=begins))
        if ends:
            await self._take(StepFrame(seq=self._next(), ends=ends))

    async def frames(self, done: Callable[[], bool]) -> list[float]:
        """Sends frames until `done`; milliseconds of each."""
        found = []
        while not done():
            frame = self._frame()
            begun = time.perf_counter()
            await self._take(frame)
            taken = time.perf_counter() - begun
            found.append(1e3 * taken)
            await asyncio.sleep(max(0.0, EVERY_SECONDS - taken))
        return found

    def _frame(self) -> StepFrame:
        count = len(self._handles)
        acts = [(hook, self._rng.standard_normal((count, hook.count), np.float32)) for hook in self._plan.hooks]
        frame = StepFrame(
            seq=self._next(),
            plan_version=self._plan.version,
            forward_end_unix_nanos=time.time_ns(),
            handles=self._handles,
            first_positions=[self._position] * count,
            row_counts=[1] * count,
            token_ids=ints_to_bytes(np.zeros(count, np.int32)),
            activations=[
                HookActivations(hook_point=h.hook_point, values=floats_to_bytes(values)) for h, values in acts
            ],
        )
        self._position += 1
        return frame

    async def _take(self, frame: StepFrame) -> None:
        await self._call.write(StreamRequest(step=frame))
        while True:
            said = await self._call.read()
            if said.HasField("watch_plan"):
                self._watch(said.watch_plan)
            elif said.ack.seq >= frame.seq:
                return

    def _watch(self, plan: WatchPlan) -> None:
        self._plan = plan

    def _next(self) -> int:
        self._seq += 1
        return self._seq


async def measure(folder: Path, socket: Path, options: argparse.Namespace) -> dict[str, Any]:
    calm, busy, seconds, alone = list[float](), list[float](), list[float](), list[float]()
    revision = 1

    def write() -> int:
        nonlocal revision
        revision += 1
        return write_policies(folder, options.detectors, revision)

    async def reload(policies: int, into: list[float]) -> None:
        begun = time.perf_counter()
        response = await service.ReloadPolicies(ReloadPoliciesRequest(actor="benchmark"), timeout=300)
        into.append(time.perf_counter() - begun)
        if len(response.events) != policies:
            raise SystemExit(f"the reload was not taken over: {response}")

    async with grpc.aio.insecure_channel(f"unix:{socket}", options=CHANNEL_OPTIONS) as channel:
        service, tap = PolicyServiceStub(channel), Tap(channel, options.rows)
        await tap.greet()
        for turn in range(options.rounds + 1):
            await tap.renew()
            until = time.perf_counter() + CALM_SECONDS
            without = await tap.frames(lambda until=until: time.perf_counter() >= until)  # type: ignore[misc]
            reloading = asyncio.create_task(reload(write(), seconds))
            during = await tap.frames(reloading.done)
            await reloading
            await reload(write(), alone)
            if turn:
                calm += without
                busy += during
            else:
                # The first round warms caches.
                seconds.clear()
                alone.clear()
    return {
        "cores": len(os.sched_getaffinity(0)),
        "detectors": options.detectors,
        "policies": -(-options.detectors // PER_POLICY),
        "rows": options.rows,
        "rounds": options.rounds,
        "reload_seconds": float(np.median(seconds)),
        "reload_seconds_without_frames": float(np.median(alone)),
        "without": _spread(calm),
        "during": _spread(busy),
    }


def _spread(milliseconds: list[float]) -> dict[str, float]:
    found = np.array(milliseconds)
    return {
        "frames": len(found),
        "median_ms": float(np.median(found)),
        "p99_ms": float(np.percentile(found, 99)),
        "max_ms": float(found.max()),
    }


def show(figures: dict[str, Any]) -> None:
    print(
        "{detectors} detectors in {policies} policies, frames of {rows} rows every 5 ms, "
        "{rounds} rounds, {cores} cores".format(**figures)
    )
    print(
        "to read and compile all of them: {reload_seconds:.2f} s while frames come, "
        "{reload_seconds_without_frames:.2f} s without (medians)".format(**figures)
    )
    for name in ("without", "during"):
        line = "{frames:,} frames: median {median_ms:.2f} ms, p99 {p99_ms:.1f} ms, max {max_ms:.1f} ms"
        print(f"{name + ' a reload':>17}: {line.format(**figures[name])}")
    ratios = {key: figures["during"][key] / figures["without"][key] for key in ("median_ms", "p99_ms", "max_ms")}
    print("during / without: median {median_ms:.1f}, p99 {p99_ms:.1f}, max {max_ms:.1f}".format(**ratios))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--detectors", type=int, default=250)
    parser.add_argument("--rows", type=int, default=16, help="of a frame, each of a request of its own")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there too")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="fw-") as name:
        folder = Path(name)
        write_sources(folder, options.detectors)
        write_policies(folder, options.detectors, 1)
        socket = folder / "s.sock"
        command = [sys.executable, "-m", "monitor.cli.main", "sidecar", "--listen", f"unix:{socket}", "--no-watch"]
        command += ["--policies", str(folder / "policies"), "--zoo", str(folder / "zoo")]
        command += ["--store", str(folder / "audit.sqlite"), "--no-alerts-jsonl"]
        with running(Child("the sidecar", command, folder / "sidecar.log")) as sidecar:
            sidecar.wait_until(lambda: sidecar_ready(f"unix:{socket}"), 120, lambda _: None)
            figures = asyncio.run(measure(folder, socket, options))
    show(figures)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
