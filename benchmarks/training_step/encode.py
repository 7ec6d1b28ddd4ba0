"""Encoding with a whole dictionary, against the bare matrix product."""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from monitor.sae import Dictionary, HookPoint, JumpRelu, Relu, TopK
from training_step.world import World, make_world

BATCHES = (1, 32, 256, 4096)
SECONDS = 1.0
"""Of measuring for each batch size and case."""


def measure(options: argparse.Namespace, console: Console) -> list[dict[str, object]]:
    """Times `Dictionary.encode` and `encode_sparse`; the products write into memory that is used again, as ours may."""
    world = make_world(options.width, options.latents, max(BATCHES), options.k, 0.0)
    results: list[dict[str, object]] = []
    table = Table("rows", "case", "median us", "min us", "x numpy's product", "by min", title="encode")
    for rows in BATCHES:
        calls, torch_product = _calls(world, rows)
        times = _interleaved(list(calls.values()))
        # By itself: torch's idle threads keep a core from whoever comes next.
        times += _interleaved([torch_product])
        median, least = statistics.median(times[0]), min(times[0])
        for name, seconds in zip((*calls, "torch product"), times, strict=True):
            found = statistics.median(seconds), min(seconds)
            ratios = found[0] / median, found[1] / least
            results.append(
                {
                    "kind": "encode",
                    "rows": rows,
                    "case": name,
                    "median_us": 1e6 * found[0],
                    "min_us": 1e6 * found[1],
                    "of_product": ratios[0],
                    "of_product_by_min": ratios[1],
                }
            )
            figures = [f"{1e6 * found[0]:,.0f}", f"{1e6 * found[1]:,.0f}", f"{ratios[0]:.3f}", f"{ratios[1]:.3f}"]
            table.add_row(str(rows), name, *figures)
        table.add_section()
    console.print(table)
    return results


def _calls(world: World, rows: int) -> tuple[dict[str, Callable[[], object]], Callable[[], object]]:
    """numpy's product and ours by name, and torch's product."""
    x_nd = world.batches[0][:rows].contiguous()
    out_nm = torch.empty(rows, world.latents)
    raw_nd, weights_md, raw_nm = x_nd.numpy(), world.weights_md.numpy(), out_nm.numpy()
    bias_m = -(weights_md @ world.mean_d.numpy())
    rules = {
        "relu": (Relu(), bias_m - np.float32(world.cut)),
        "jumprelu": (JumpRelu(np.full(world.latents, world.cut, np.float32)), bias_m),
        "topk": (TopK(world.k), bias_m),
    }
    calls: dict[str, Callable[[], object]] = {
        "numpy product": lambda: np.matmul(raw_nd, weights_md.T, out=raw_nm),
    }
    for name, (rule, shift_m) in rules.items():
        dictionary = Dictionary(
            weights_md, shift_m, weights_md, world.mean_d.numpy(), rule, HookPoint(0), model="synthetic"
        )
        calls[f"encode {name}"] = lambda dictionary=dictionary: dictionary.encode(raw_nd, raw_nm)
        calls[f"encode_sparse {name}"] = lambda dictionary=dictionary: dictionary.encode_sparse(raw_nd)
    return calls, lambda: torch.mm(x_nd, world.weights_md.T, out=out_nm)


def _interleaved(calls: list[Callable[[], object]]) -> list[list[float]]:
    """Seconds of every call, in turns; the first two turns warm up."""
    times: list[list[float]] = [[] for _ in calls]
    turns, started = -2, time.perf_counter()
    while turns < 5 or time.perf_counter() - started < SECONDS * len(calls):
        for call, seconds in zip(calls, times, strict=True):
            before = time.perf_counter()
            call()
            if turns >= 0:
                seconds.append(time.perf_counter() - before)
        turns += 1
    return times
