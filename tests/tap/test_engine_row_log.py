"""Rows that a real engine records into a folder: every position that was computed, once, as Hugging Face has it."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from support.comparison import TOLERANCE, mixed_requests
from support.engine import engine_args
from support.glassllm import WIDTH, glassllm_folder
from support.reference import Reference, relative_error
from support.schedules import all_at_once
from support.stepped_engine import Played, SteppedEngines

from monitor.errors import FeaturewatchError
from monitor.sae import HookPoint
from training.harvest.row_log import RowLogReader

pytestmark = pytest.mark.engine

HOOK_POINTS = ["resid_post.0", "resid_post.3"]
NGRAM = {"method": "ngram", "num_speculative_tokens": 4, "prompt_lookup_min": 1, "prompt_lookup_max": 3}
REPEATING = [{"id": f"repeat-{n}", "prompt": [7, 8, 9, n] * 30, "max_tokens": 40} for n in (20, 21, 22)]


def test_every_computed_position_is_recorded_once_and_a_lost_folder_is_told(
    engines: SteppedEngines, tmp_path: Path
) -> None:
    """Chunks, preemption, several completions, an abort, accepted and rejected drafts; then the folder goes away."""
    folder = tmp_path / "rows"
    config = {"record_to": str(folder), "hook_points": HOOK_POINTS}
    small = {"max_num_batched_tokens": 64, "max_num_seqs": 16, "block_size": 32, "num_gpu_blocks_override": 17}
    assert "record_to with prefix caching" in engines.refusal(engine_args(config, **small))
    args = engine_args(config, enable_prefix_caching=False, speculative_config=NGRAM, **small)
    with engines.opened(args) as engine:
        played = engine.play(all_at_once([*mixed_requests(seed=7, count=12), *REPEATING]))
        reader = RowLogReader(folder)
        assert (reader.header.dtype, reader.header.engine["speculative"]) == ("float32", "ngram")
        _check(reader, played)
        shutil.rmtree(folder)
        assert len(engine.play(all_at_once(REPEATING)).outputs) == len(REPEATING)
        with pytest.raises(FeaturewatchError, match="recorded rows in"):
            RowLogReader(folder)
        assert list(reader.read()) == []
    shares = [share for traced in played.requests.values() for share in traced.passes]
    assert sum(share.rejected for share in shares) > 0
    assert sum(share.drafts - share.rejected for share in shares) > 0
    assert sum(traced.resumed for traced in played.requests.values()) > 0


def _check(reader: RowLogReader, played: Played) -> None:
    reference = Reference(glassllm_folder())
    tokens: dict[str, dict[int, int]] = {name: {} for name in played.requests}
    rows: dict[str, dict[int, list[torch.Tensor]]] = {name: {} for name in played.requests}
    for run, token_ids_n, rows_nd in reader.read():
        for offset in range(run.length):
            assert run.first + offset not in tokens[run.request_id], "twice"
            tokens[run.request_id][run.first + offset] = int(token_ids_n[offset])
            rows[run.request_id][run.first + offset] = [rows_nd[name][offset] for name in HOOK_POINTS]
    worst = 0.0
    for name, traced in played.requests.items():
        assert all(traced.passed)
        assert tokens[name] == dict(enumerate(traced.sequence[: len(traced.passed)])), name
        if not traced.passed:
            continue
        expected_lnd = reference.residuals(traced.sequence[: len(traced.passed)])
        for index, point in enumerate(map(HookPoint.parse, HOOK_POINTS)):
            found_nd = np.stack([rows[name][at][index].numpy() for at in range(len(traced.passed))])
            assert found_nd.shape[1] == WIDTH
            worst = max(worst, relative_error(found_nd, expected_lnd[point.layer]))
    print(f"\n{sum(map(len, tokens.values()))} rows, largest relative error {worst:.1e}")
    assert worst <= TOLERANCE
