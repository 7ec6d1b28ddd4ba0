"""What it costs to keep detector state at block boundaries: per row, per block, and per restored prefix.

    python benchmarks/prefix_states.py [--detectors 32] [--rounds 100]

Medians over rounds, with and without in turn. Prints one line per measurement and asserts nothing.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from statistics import median

import numpy as np

from monitor.policy import CompiledDetector, CompiledRule, DirectionRef, Phase, PolicyEngine, PolicySet, Severity
from monitor.rpc.prefix_chain import PrefixChain, prefix_root
from monitor.sidecar.prefix.states import PrefixKey, PrefixState, PrefixStates
from monitor.v1.engine_pb2 import EngineInfo

DIRECTIONS = 64


def policy_set(num_detectors: int) -> PolicySet:
    """Detectors over four latents each, a third of them with a rolling window of 16 tokens, and a rule for each."""
    detectors = tuple(
        CompiledDetector(
            policy="p",
            id=f"d{d}",
            source="saeLatents",
            columns=tuple((4 * d + k) % DIRECTIONS for k in range(4)),
            weights=(1.0, 0.5, 0.25, 2.0),
            bias=0.0,
            combine="weighted_sum",
            aggregate=("ema", "max", "rolling_mean")[d % 3],
            half_life=8.0 if d % 3 == 0 else 0.0,
            window=16 if d % 3 == 2 else 0,
            then_max=False,
            min_tokens=4,
            skip=(),
            phases=(Phase.PROMPT, Phase.RESPONSE),
            warn=1e6,
            fire=2e6,
            clear=1e6,
        )
        for d in range(num_detectors)
    )
    rules = tuple(
        CompiledRule("p", 1, f"R{d}", Severity.LOW, 1, (d,), f"d{d}.fire", (4 * d + 3,), ("alert",))
        for d in range(num_detectors)
    )
    directions = tuple(DirectionRef("resid_post.1", "latent", "sae", k, "") for k in range(DIRECTIONS))
    return PolicySet((), directions, detectors, rules)


def interleaved(rounds: int, *works: Callable[[], object]) -> list[float]:
    """Median seconds of each, taken in turn."""
    seconds: list[list[float]] = [[] for _ in works]
    for _ in range(rounds):
        for work, taken in zip(works, seconds, strict=True):
            begun = time.perf_counter()
            work()
            taken.append(time.perf_counter() - begun)
    return [median(taken) for taken in seconds]


def measure(num_detectors: int, rounds: int) -> None:
    engine = PolicyEngine(policy_set(num_detectors))
    slot = engine.open()
    print(f"{num_detectors} detectors and rules, a third with a window of 16: {engine.snapshot_bytes} bytes a snapshot")
    for rows, block in ((512, 16), (512, 32), (64, 64)):
        snapshot = _rows(engine, slot, rows, block, rounds)
    _store(engine, slot, snapshot, rounds)


def _rows(engine: PolicyEngine, slot: int, rows: int, block: int, rounds: int) -> bytes:
    """A prefill of one request with and without snapshots at the ends of its blocks; returns a snapshot."""
    acts_nk = np.random.default_rng(0).standard_normal((rows, DIRECTIONS), np.float32)
    slots_n, classes_n = np.full(rows, slot), np.zeros(rows, np.uint8)
    phases_n = np.full(rows, Phase.PROMPT, np.uint8)
    save_n = np.full(rows, -1)
    save_n[block - 1 :: block] = np.arange(rows // block)
    plain, saving = interleaved(
        rounds,
        lambda: engine.advance(acts_nk, slots_n, classes_n, phases_n),
        lambda: engine.advance(acts_nk, slots_n, classes_n, phases_n, save_n=save_n),
    )
    print(
        f"engine, {rows} rows, {rows // block} boundaries: {1e6 * plain / rows:.3f} us a row without, "
        f"{1e6 * saving / rows:.3f} with"
    )
    judgement = engine.advance(acts_nk, slots_n, classes_n, phases_n, save_n=save_n)
    return engine.snapshot(judgement.snapshots_mf[0])


def _store(engine: PolicyEngine, slot: int, snapshot: bytes, rounds: int) -> None:
    """Hashing, keeping and finding a prompt of 4,096 tokens in blocks of 16."""
    tokens_n = np.arange(4096, dtype=np.int32)
    root = prefix_root(EngineInfo(model="m", prefix_block_size=16))
    keys = [PrefixKey(b"n" * 32, name, 0) for name in PrefixChain(root, 16).extend(tokens_n)]

    def keep() -> PrefixStates:
        states = PrefixStates(64 << 20)
        shorter = None
        for key in keys:
            states.add(key, PrefixState(snapshot, None, shorter))
            shorter = key
        return states

    states = keep()
    hashing, keeping, finding, restoring = interleaved(
        rounds,
        lambda: PrefixChain(root, 16).extend(tokens_n),
        keep,
        lambda: states.find(keys),
        lambda: engine.restore(slot, snapshot),
    )
    count = len(keys)
    print(f"a block: {1e6 * hashing / count:.2f} us to hash, {1e6 * keeping / count:.2f} us to keep")
    print(
        f"a prefix of {count} blocks: {1e6 * finding:.0f} us to find, and {1e6 * restoring:.0f} us to restore; "
        f"64 MiB hold {(64 << 20) * count // states.stats().nbytes} blocks"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--detectors", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=100)
    arguments = parser.parse_args()
    measure(arguments.detectors, arguments.rounds)


if __name__ == "__main__":
    main()
