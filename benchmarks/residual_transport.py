"""Residual rows from the tap's flight recorder to another process: gRPC on a Unix socket against shared memory.

    python benchmarks/residual_transport.py [--rounds 30] [--latents 8]

Method. One recorder holds the rows of one request at one hook point; one receiver process takes them as the sidecar
does. A: the tap's own messages with the rows in them. B: the rows are copied into shared memory, and messages of a few
bytes on the same stream say where they lie. Rounds alternate A, B in one run; each pair gives one ratio B / A. The same
rows arrive by both, which is checked. For scale, the full-dictionary encode of as many rows on one thread, as the
sidecar does it without a GPU, with a random dictionary of `--latents` latents per residual dimension.
"""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np
import torch
from residuals.recorded import over_grpc, over_shared_memory, recorded
from residuals.stream import Messages, Stream, open_stream

from monitor.sae import Dictionary, HookPoint, Relu, top_latents
from monitor.tap.blas import use_one_blas_thread

SIZES = [(16, 576, torch.float32), (512, 576, torch.float32), (1024, 4096, torch.bfloat16)]
ENCODES = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=30, help="pairs of rounds of each size")
    parser.add_argument("--latents", type=int, default=8, help="latents per residual dimension")
    options = parser.parse_args()
    use_one_blas_thread()
    for rows, width, dtype in SIZES:
        _compare(rows, width, dtype, options)


def _compare(rows: int, width: int, dtype: torch.dtype, options: argparse.Namespace) -> None:
    recorder = recorded(rows, width, dtype)
    nbytes = rows * width * dtype.itemsize
    with open_stream(nbytes) as stream:
        assert stream.shared.buf is not None
        shared = stream.shared.buf
        pairs = []
        for index in range(options.rounds + 1):
            grpc_ms, first = _send(stream, over_grpc(recorder))
            shared_ms, second = _send(stream, over_shared_memory(recorder, shared))
            assert first == second > 0, "the receiver got other rows"
            if index:
                # The first pair warms up.
                pairs.append((grpc_ms, shared_ms))
        del shared
    encode_ms = _encode_ms(rows, width, options.latents)
    by_grpc, by_shared = zip(*pairs, strict=True)
    ratios = [b / a for a, b in pairs]
    saved = statistics.median(a - b for a, b in pairs)
    whole = statistics.median(by_grpc) + encode_ms
    print(f"{rows} rows x {width} {str(dtype).removeprefix('torch.')}: {nbytes / 2**20:.1f} MiB, {len(pairs)} pairs")
    print(f"  A gRPC           {_spread(by_grpc)} ms ({nbytes / 2**20 / statistics.median(by_grpc) * 1000:.0f} MiB/s)")
    print(f"  B shared memory  {_spread(by_shared)} ms")
    print(f"  B / A            {_spread(ratios)}")
    print(f"  full encode      {encode_ms:.1f} ms with {options.latents * width} latents")
    print(f"  B would save {saved:.2f} ms of {whole:.1f} ms: {100 * saved / whole:.2f} % of the time to evidence\n")


def _send(stream: Stream, messages: Messages) -> tuple[float, int]:
    start = time.perf_counter()
    checksum = stream.send(messages)
    return 1000 * (time.perf_counter() - start), checksum


def _encode_ms(rows: int, width: int, latents: int) -> float:
    random = np.random.default_rng(0)
    w_enc_md = random.normal(0, width**-0.5, (latents * width, width)).astype(np.float32)
    bias_m = np.full(latents * width, -1.5, np.float32)
    dictionary = Dictionary(w_enc_md, bias_m, w_enc_md, np.zeros(width, np.float32), Relu(), HookPoint(0), "random")
    x_nd = random.normal(0, 1, (rows, width)).astype(np.float32)
    times = []
    for _ in range(ENCODES):
        start = time.perf_counter()
        top_latents(dictionary, x_nd)
        times.append(1000 * (time.perf_counter() - start))
    return min(times)


def _spread(values: tuple[float, ...] | list[float]) -> str:
    return f"{min(values):7.2f} {statistics.median(values):7.2f} {max(values):7.2f}"


if __name__ == "__main__":
    main()
