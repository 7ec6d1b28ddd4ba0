"""The child process that encodes full dictionaries: ``python -m monitor.sidecar.evidence.encode_process``.

Judging shares an interpreter lock with whatever else runs in its process; this work has a process of its own, with low
priority and one BLAS thread, so that neither decisions nor an engine on the same host wait for it. On a host with CUDA
and torch it encodes on the GPU.

Standard input and output carry, in turn, one line of JSON with the number of bytes that follow, and these bytes.

Request: ``{"sae": folder, "sha256": hash of its weights, "bytes": n}`` and a ResidualRows.
Answer: ``{"bytes": n}`` and an Evidence without hook point and reason, or ``{"error": text, "bytes": 0}``.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections import OrderedDict
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np

from monitor.errors import FeaturewatchError
from monitor.rpc import WireFormatError, residuals_from
from monitor.sae import Dictionary, load_saelens, top_latents
from monitor.sidecar.evidence.encode_cuda import CudaEncoder, cuda_is_there
from monitor.v1.evidence_pb2 import Evidence, TokenEvidence
from monitor.v1.tap_pb2 import ResidualRows

NICE: Final = 10
# Dictionaries that are kept, by the bytes of their two matrices; the last one used is always kept.
MOST_KEPT_BYTES: Final = 2 << 30


class Dictionaries:
    """Dictionaries by folder, read when they are first asked for; the longest unused make room."""

    def __init__(self, most_bytes: int = MOST_KEPT_BYTES) -> None:
        self._most_bytes = most_bytes
        self._kept: OrderedDict[str, Dictionary] = OrderedDict()

    def get(self, folder: str, sha256: str) -> Dictionary:
        """Raises FeaturewatchError when it cannot be read or its weights are not those that policies were read with."""
        dictionary = self._kept.get(folder)
        if dictionary is None or dictionary.sha256 != sha256:
            dictionary = self._kept[folder] = load_saelens(Path(folder))
        self._kept.move_to_end(folder)
        while len(self._kept) > 1 and sum(map(_bytes_of, self._kept.values())) > self._most_bytes:
            self._kept.popitem(last=False)
        if dictionary.sha256 != sha256:
            raise FeaturewatchError(
                f"SAE {folder} with weights sha256:{dictionary.sha256[:16]}…",
                f"policies were read with sha256:{sha256[:16]}…",
                "restart the sidecar after changing an SAE",
            )
        return dictionary


def evidence_of(dictionary: Dictionary, rows: ResidualRows, cuda: CudaEncoder | None) -> Evidence:
    """Top latents of each finite row; raises FeaturewatchError or WireFormatError for rows that do not fit."""
    x_nd = residuals_from(rows)
    dictionary.require_width(x_nd.shape[1], "the captured rows")
    finite_n = np.isfinite(x_nd).all(axis=1)
    x_nd = x_nd[finite_n]
    top = top_latents(dictionary, x_nd) if cuda is None else cuda.top_latents(dictionary, x_nd)
    positions_n = rows.first_position + np.flatnonzero(finite_n)
    counts_n = np.count_nonzero(top.activations_nk, axis=1)
    columns = (positions_n, counts_n, top.latents_nk, top.activations_nk, top.active_n, top.error_n)
    return Evidence(
        sae_sha256=dictionary.sha256,
        num_latents=dictionary.num_latents,
        device="cpu" if cuda is None else "cuda",
        tokens=[
            TokenEvidence(
                position=position, latents=latents[:count], activations=activations[:count], active=active, error=error
            )
            for position, count, latents, activations, active, error in zip(
                *(column.tolist() for column in columns), strict=True
            )
        ],
    )


def serve(requests: BinaryIO, answers: BinaryIO) -> None:
    """Answers requests until their stream ends."""
    dictionaries = Dictionaries()
    cuda = CudaEncoder() if cuda_is_there() else None
    while line := requests.readline():
        header: dict[str, Any] = json.loads(line)
        rows = ResidualRows.FromString(requests.read(header["bytes"]))
        try:
            dictionary = dictionaries.get(header["sae"], header["sha256"])
            try:
                evidence = evidence_of(dictionary, rows, cuda)
            except RuntimeError as error:
                # So torch tells what fails on the GPU, memory that the engine holds included.
                if cuda is None:
                    raise
                print(f"encoding on the CPU from now on: {error}", file=sys.stderr, flush=True)
                cuda = None
                evidence = evidence_of(dictionary, rows, None)
            answer, data = {}, evidence.SerializeToString()
        except (FeaturewatchError, WireFormatError, OSError, MemoryError) as error:
            answer, data = {"error": str(error) or type(error).__name__}, b""
        answers.write(json.dumps({**answer, "bytes": len(data)}).encode() + b"\n" + data)
        answers.flush()


def _bytes_of(dictionary: Dictionary) -> int:
    return dictionary.w_enc_md.nbytes + dictionary.w_dec_md.nbytes


def main() -> None:
    # The sidecar ends this process by closing its input; Ctrl-C in a terminal reaches both.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.nice(NICE)
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    # What libraries print must not get between the answers.
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    serve(sys.stdin.buffer, answers)


if __name__ == "__main__":
    main()
