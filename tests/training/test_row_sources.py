"""Rows from arrays and iterators: each once a pass, from any place on the same again."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from monitor.errors import FeaturewatchError
from monitor.sae import HookPoint
from training.trainer.config import TrainConfig
from training.trainer.rows import ArrayRows, EpochRows, IteratorRows
from training.trainer.sae_config import SaeConfig, SaeOptions
from training.trainer.train import train_saes_on

POINT = HookPoint(3)
ROWS = np.arange(100 * 4, dtype=np.float32).reshape(100, 4)


def _pieces(number: int) -> Iterator[np.ndarray]:
    """Matrices of uneven lengths, other ones in each pass."""
    rng = np.random.default_rng(number)
    yield from np.split(ROWS + number, np.sort(rng.integers(0, 100, 6)))


def _sources() -> list[EpochRows]:
    iterator = IteratorRows(_pieces, POINT, width=4, rows=100, batch_rows=16)
    return [ArrayRows({POINT: ROWS.astype(np.float16)}, 16, seed=5), iterator]


@pytest.mark.parametrize("kind", [0, 1])
@pytest.mark.parametrize("taken", [0, 1, 5, 6, 7, 14])
def test_any_place_is_found_again(kind: int, taken: int) -> None:
    source, resumed = _sources()[kind], _sources()[kind]
    for _ in range(taken):
        source.take()
    seen = source.peek(8)[POINT]
    resumed.restore(source.position())
    batches = [source.take()[POINT] for _ in range(8)]
    np.testing.assert_array_equal(seen, np.concatenate(batches))
    for batch in batches:
        np.testing.assert_array_equal(resumed.take()[POINT], batch)
        assert batch.dtype == np.float32


def test_an_iterators_rows_come_in_order_and_a_pass_ends_with_whole_batches() -> None:
    source = _sources()[1]
    first = np.concatenate([source.take()[POINT] for _ in range(6)])
    np.testing.assert_array_equal(first, ROWS[:96])
    np.testing.assert_array_equal(source.take()[POINT], ROWS[:16] + 1)


def test_arrays_are_shuffled_anew_in_each_pass() -> None:
    source = _sources()[0]
    passes = [np.concatenate([source.take()[POINT] for _ in range(6)]) for _ in range(2)]
    assert len(np.unique(passes[0][:, 0])) == 96
    assert not np.array_equal(passes[0], passes[1])


def test_training_from_an_iterator() -> None:
    trained = train_saes_on(_sources()[1], {"sae": SaeConfig.of(POINT, SaeOptions(latents=12), k=2)}, TrainConfig())
    assert trained["sae"].figures.rows == 96
    assert trained["sae"].figures.l0 == pytest.approx(2.0)


def test_rows_that_do_not_fit_are_refused() -> None:
    with pytest.raises(FeaturewatchError, match=r"training on 8 rows: they are less than one batch of 16"):
        ArrayRows({POINT: ROWS[:8]}, 16)
    with pytest.raises(FeaturewatchError, match=r"each hook point has one matrix"):
        ArrayRows({POINT: ROWS, HookPoint(4): ROWS[:50]}, 16)
    with pytest.raises(FeaturewatchError, match=r"rows of shape \(100, 4\): they must be \[n, 5\]"):
        IteratorRows(lambda _: [ROWS], POINT, width=5, rows=100, batch_rows=16).take()
    with pytest.raises(FeaturewatchError, match=r"hook point 'resid_post.9': the rows are of resid_post.3"):
        _sources()[1].width_of(HookPoint(9))


def test_an_iterator_that_is_used_up_is_told() -> None:
    """It would be asked for further passes for ever."""
    once = iter([ROWS])
    source = IteratorRows(lambda _: once, POINT, width=4, rows=100, batch_rows=16)
    for _ in range(6):
        source.take()
    with pytest.raises(FeaturewatchError, match=r"pass 1 over the rows: it gave not even one batch"):
        source.take()
    with pytest.raises(FeaturewatchError, match=r"pass 1 over the rows: it gave not even one batch"):
        IteratorRows(lambda number: [ROWS][number:], POINT, width=4, rows=100, batch_rows=16).peek(8)
