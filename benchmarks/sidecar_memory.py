"""Memory of live requests in the sidecar's judge, and what judging a frame costs.

    python benchmarks/sidecar_memory.py

Each number of live requests is measured in a process of its own. tracemalloc tells what is held outside of the pool of
histories, which is made before it starts; the pool's bookkeeping, some 150 bytes a page, is included. The judge is the
sidecar's own, with prefix states; the policies have 32 detectors over 8 dense probes (ema, max and rolling mean with a
window of 16 in turn). 10,000 requests of 2,000 tokens are 20 million rows: allow a quarter of an hour.
"""

from __future__ import annotations

import argparse
import gc
import json
import multiprocessing
import resource
import statistics
import tempfile
import time
import tracemalloc
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from monitor.rpc import floats_to_bytes, ints_to_bytes
from monitor.sae import Catalog, DenseProbe, HookPoint, save_dense_probe
from monitor.sidecar.history import HistoryPool
from monitor.sidecar.judge import TapJudge
from monitor.sidecar.ledger import PolicyLedger
from monitor.sidecar.plan import plan_for_tap
from monitor.sidecar.policy_book import PolicyBook
from monitor.sidecar.prefix.states import PrefixStates
from monitor.sidecar.tokenizer import TokenReader
from monitor.v1.engine_pb2 import EngineInfo
from monitor.v1.tap_pb2 import HookActivations, RequestBegin, StepFrame

HOOK = "resid_post.3"
DIRECTIONS, WIDTH = 8, 16
AGGREGATES = ("{kind: ema, halfLife: 16}", "{kind: max}", "{kind: rolling_mean, window: 16}")


def write_policies(folder: Path, detectors: int) -> None:
    """Policies of up to eight detectors each, which never fire."""
    for k in range(DIRECTIONS):
        probe = DenseProbe(HookPoint(3), np.full(WIDTH, 1.0 + k, np.float32), bias=0.0)
        save_dense_probe(probe, folder / "weights" / f"d{k}.dense.safetensors")
    for first in range(0, detectors, DIRECTIONS):
        numbers = range(first, min(first + DIRECTIONS, detectors))
        lines = [
            f"    - {{id: d{d}, source: {{denseProbe: {{file: weights/d{d % DIRECTIONS}.dense.safetensors}}}}, "
            f"aggregate: {AGGREGATES[d % len(AGGREGATES)]}, threshold: {{fire: 1000}}}}"
            for d in numbers
        ]
        rules = [f"    - {{id: R-{d:03d}, when: d{d}.fire, severity: low}}" for d in numbers]
        (folder / f"p{first}.yaml").write_text(
            "\n".join(
                [
                    "apiVersion: monitor/v1",
                    "kind: Policy",
                    f"metadata: {{name: p{first}, revision: 1}}",
                    "spec:",
                    "  mode: shadow",
                    '  match: {models: ["*"]}',
                    "  detectors:",
                    *lines,
                    "  rules:",
                    *rules,
                    "",
                ]
            )
        )


def make_judge(detectors: int, pool: HistoryPool, states: PrefixStates) -> TapJudge:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_policies(folder, detectors)
        book = PolicyBook.load([folder], Catalog([]))
        engine = EngineInfo(model="tiny", served_model="tiny", num_layers=8, hidden_size=WIDTH, prefix_block_size=16)
        plan = plan_for_tap(book, engine, [HOOK], version=1)
    assert len(plan.policies.detectors) == detectors, plan.unserved
    return TapJudge(
        tap_id="tap",
        session_id="session",
        engine_info=engine,
        plan=plan,
        reader=TokenReader.unknown(),
        ledger=PolicyLedger(),
        prefix_states=states,
        history=pool,
        clock=time.time_ns,
    )


class Feed:
    """Frames for one judge."""

    def __init__(self, judge: TapJudge) -> None:
        self._judge = judge
        self._seq = 0
        self._columns = len(judge.plan.policies.directions)
        self._rng = np.random.default_rng(0)

    def frame(self, handles: Sequence[int], first: int, count: int, prompt: int = 0) -> StepFrame:
        """`count` rows of each request from position `first` on; with `prompt` tokens they begin here."""
        self._seq += 1
        rows = len(handles) * count
        begins = [
            RequestBegin(
                handle=handle,
                request_id=f"chatcmpl-{handle:032x}-0a1b2c3d",
                external_id=f"chatcmpl-{handle:032x}",
                prompt_token_ids=ints_to_bytes(self._rng.integers(1, 50_000, prompt)),
                start_unix_nanos=1,
            )
            for handle in handles
            if prompt
        ]
        tokens = [np.frombuffer(begin.prompt_token_ids, np.int32)[first : first + count] for begin in begins]
        ids = np.concatenate(tokens) if begins else self._rng.integers(1, 50_000, rows)
        return StepFrame(
            seq=self._seq,
            plan_version=1,
            forward_end_unix_nanos=time.time_ns(),
            begins=begins,
            handles=handles,
            first_positions=[first] * len(handles),
            row_counts=[count] * len(handles),
            token_ids=ints_to_bytes(ids),
            activations=[
                HookActivations(
                    hook_point=HOOK,
                    values=floats_to_bytes(self._rng.standard_normal((rows, self._columns), np.float32)),
                )
            ],
        )

    def fill(self, numbers: range, prompt: int, tokens: int) -> None:
        """Begins requests and feeds all positions of each: the prompt at once, the answer in steps of 50 rows."""
        for start in range(0, len(numbers), 50):
            handles = numbers[start : start + 50]
            self._judge.apply(self.frame(handles, 0, prompt, prompt))
            for first in range(prompt, tokens, 50):
                self._judge.apply(self.frame(handles, first, min(50, tokens - first)))


def measure(options: argparse.Namespace, requests: int) -> dict[str, float]:
    """Bytes that live requests hold: traced without the pool, and resident with it."""
    pool, states = HistoryPool(options.history_mib << 20, options.detectors), PrefixStates(4 << 20)
    tracemalloc.start()
    feed = Feed(judge := make_judge(options.detectors, pool, states))
    # What is made once, and the store of prefix states, which is full from here on, are not the requests' own.
    feed.fill(range(64), 64, 500)
    assert states.stats().evictions
    gc.collect()
    before, resident = tracemalloc.get_traced_memory()[0], _resident()
    feed.fill(range(64, 64 + requests), options.prompt, options.tokens)
    gc.collect()
    assert judge.num_live == 64 + requests
    return {
        "bytes a request": (tracemalloc.get_traced_memory()[0] - before) / requests,
        "resident bytes a request, pool included": (_resident() - resident) / requests,
        "pool MiB": pool.stats().used_bytes / 2**20,
        "pages given up": pool.given_up,
    }


def _resident() -> int:
    """Of this process, without what tracemalloc needs itself."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() - tracemalloc.get_tracemalloc_memory()


def frame_cost(detectors: int, requests: int, rounds: int) -> float:
    """Median microseconds of CPU that a frame of one row of each of `requests` takes."""
    judge = make_judge(detectors, HistoryPool(64 << 20, detectors), PrefixStates(64 << 20))
    feed = Feed(judge)
    handles = range(requests)
    judge.apply(feed.frame(handles, 0, 64, 64))
    nanos = []
    for position in range(64, 64 + rounds):
        frame = feed.frame(handles, position, 1)
        start = time.thread_time_ns()
        judge.apply(frame)
        nanos.append(time.thread_time_ns() - start)
    return statistics.median(nanos) / 1000


def in_own_process(function: Any, *arguments: Any) -> Any:
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, nargs="+", default=[1000, 10_000])
    parser.add_argument("--detectors", type=int, default=32)
    parser.add_argument("--prompt", type=int, default=1000)
    parser.add_argument("--tokens", type=int, default=2000, help="positions of each request, its prompt included")
    parser.add_argument("--history-mib", type=int, default=64)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    found: dict[str, Any] = {}
    for requests in options.requests:
        found[f"{requests} requests"] = in_own_process(measure, options, requests)
    for detectors in (3, options.detectors):
        for requests in (1, 64, 256):
            cost = in_own_process(frame_cost, detectors, requests, 300)
            found[f"frame of {requests} requests, {detectors} detectors"] = {"microseconds of CPU (median)": cost}
    if options.json:
        print(json.dumps(found))
        return
    print(f"{options.detectors} detectors, prompts of {options.prompt}, {options.tokens} positions each")
    for title, values in found.items():
        print(f"{title}: " + ", ".join(f"{name} {value:,.1f}" for name, value in values.items()))


if __name__ == "__main__":
    main()
