"""Rows of a model without a cache: each once, shuffled, and from any place on the same again."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from monitor.sae import HookPoint
from training.harvest.config import HarvestConfig
from training.harvest.prepare import Prepared, prepare
from training.harvest.residuals import ResidualModel
from training.harvest.tokens import Reason
from training.trainer.rows import Batch
from training.trainer.stream import StreamRows

BATCH, BUFFER = 64, 64 * 9
POINTS = (HookPoint(0), HookPoint(2))


@pytest.fixture(scope="module")
def config(tiny_model: Path, corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> HarvestConfig:
    return HarvestConfig(
        model=str(tiny_model),
        data=(corpus,),
        hook_points=tuple(map(str, POINTS)),
        cache=tmp_path_factory.mktemp("stream") / "cache",
        tokens=5000,
        context=96,
        batch_tokens=480,
        heldout_share=0.3,
        heldout_tokens=2000,
        store_dtype="float32",
        dtype="float32",
    )


@pytest.fixture(scope="module")
def model(config: HarvestConfig) -> ResidualModel:
    return ResidualModel(config.model, POINTS, "float32")


@pytest.fixture(scope="module")
def prepared(config: HarvestConfig) -> Prepared:
    return prepare(config)


def _stream(prepared: Prepared, config: HarvestConfig, model: ResidualModel) -> StreamRows:
    return StreamRows(prepared, config, model, BATCH, BUFFER)


def _same(first: Batch, second: Batch) -> bool:
    return all(np.array_equal(first[point], second[point]) for point in POINTS)


@pytest.mark.parametrize("taken", [0, 1, 8, 9, 10, 27, 31])
def test_any_place_is_found_again(prepared: Prepared, config: HarvestConfig, model: ResidualModel, taken: int) -> None:
    """Inside a buffer, at its end, and after the text was used up and taken again."""
    stream = _stream(prepared, config, model)
    for _ in range(taken):
        stream.take()
    place = json.loads(json.dumps(stream.position()))
    ahead = [stream.take() for _ in range(12)]
    resumed = _stream(prepared, config, model)
    resumed.restore(place)
    assert all(_same(resumed.take(), batch) for batch in ahead)
    assert resumed.manifest.counts == stream.manifest.counts
    assert resumed.manifest.outliers_by_hook_point == stream.manifest.outliers_by_hook_point


def test_peeking_moves_nothing(prepared: Prepared, config: HarvestConfig, model: ResidualModel) -> None:
    stream = _stream(prepared, config, model)
    seen = stream.peek(3)
    taken = [stream.take() for _ in range(3)]
    for point in POINTS:
        np.testing.assert_array_equal(seen[point], np.concatenate([batch[point] for batch in taken]))
    assert seen[POINTS[0]].dtype == np.float32


def test_a_round_gives_each_row_once(prepared: Prepared, config: HarvestConfig, model: ResidualModel) -> None:
    """The rows of the first buffers are the kept ones of the text, in another order."""
    stream = _stream(prepared, config, model)
    given = np.concatenate([stream.take()[POINTS[1]] for _ in range(18)])
    expected = []
    for batch in prepared.source:
        if not batch.held_out:
            reasons_bt = stream._reasons(batch, rows := model.residuals(batch.token_ids_bt, batch.lengths_b))
            expected.append(rows[POINTS[1]].numpy()[reasons_bt == Reason.KEPT])
    wanted = np.concatenate(expected)[: len(given)]
    assert not np.array_equal(given, wanted)
    np.testing.assert_array_equal(given[np.lexsort(given.T)], wanted[np.lexsort(wanted.T)])


def test_held_out_text_is_apart(prepared: Prepared, config: HarvestConfig, model: ResidualModel) -> None:
    sequences = _stream(prepared, config, model).heldout()
    assert 500 < sum(len(sequence.token_ids_n) for sequence in sequences) <= config.heldout_tokens
    assert all(sequence.held_out for sequence in sequences)
    assert any((sequence.reasons_n == Reason.KEPT).any() for sequence in sequences)
