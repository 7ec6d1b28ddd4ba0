"""Which rows are left out for their values."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from monitor.errors import FeaturewatchError
from monitor.sae import HookPoint
from training.harvest.batches import TokenBatch
from training.harvest.manifest import Manifest
from training.harvest.outliers import measure_norms, outliers
from training.harvest.tokens import Reason

POINT = HookPoint(0)


def _found(rows: list[list[float]], store_dtype: str, factor: float = 100.0) -> list[bool]:
    rows_btd = torch.tensor(rows)[None]
    return outliers({POINT: rows_btd}, {str(POINT): 2e4}, factor, store_dtype)[POINT][0].tolist()


@pytest.mark.parametrize(("store_dtype", "left_out"), [("float16", True), ("float32", False)])
def test_float16_overflow_is_judged_by_the_values(store_dtype: str, left_out: bool) -> None:
    """A norm of 120,000 with all values at 60,000 fits float16; a single value of 70,000 does not."""
    rows = [[60_000.0] * 4, [-65_504.0] * 4, [70_000.0, 0, 0, 0], [0, 0, -65_536.0, 0], [1.0] * 4]
    assert _found(rows, store_dtype) == [False, False, left_out, left_out, False]
    kept = np.array(rows)[np.logical_not(_found(rows, store_dtype))]
    assert np.isfinite(kept.astype(store_dtype)).all()


def test_rows_far_above_the_median_and_broken_ones_are_left_out() -> None:
    rows = [[3e4, 0, 0], [5e4, 0, 0], [float("nan"), 0, 0], [0, float("inf"), 0]]
    assert _found(rows, "float32", factor=2.0) == [False, True, True, True]


def test_a_dtype_that_holds_hardly_a_row_is_refused_before_the_harvest() -> None:
    class Model:
        hook_points = (POINT,)

        def residuals(self, token_ids_bt: np.ndarray, lengths_b: np.ndarray) -> dict[HookPoint, torch.Tensor]:
            assert lengths_b.tolist() == [3, 3]
            return {POINT: torch.full((*token_ids_bt.shape, 4), 1e5)}

    batch = TokenBatch(np.zeros((2, 3), np.int64), np.full((2, 3), Reason.KEPT, np.uint8), False)
    manifest = Manifest(4, [str(POINT)], "float32", [0], {})
    measure_norms(Model(), [batch], manifest)  # type: ignore[arg-type]
    assert manifest.medians == {str(POINT): pytest.approx(2e5)}
    assert manifest.norm_quantiles[str(POINT)]["1.0"] == pytest.approx(2e5)
    manifest.store_dtype = "float16"
    with pytest.raises(
        FeaturewatchError, match=r"store-dtype float16 at resid_post.0: only 0% .* --store-dtype float32"
    ):
        measure_norms(Model(), [batch], manifest)  # type: ignore[arg-type]


def test_all_norms_may_be_kept_but_not_what_the_dtype_cannot_hold() -> None:
    rows = [[3e30, 0, 0], [float("nan"), 0, 0], [0, float("inf"), 0], [1, 0, 0]]
    for median in (2e4, 0.0):
        found = outliers({POINT: torch.tensor(rows)[None]}, {str(POINT): median}, float("inf"), "bfloat16")
        assert found[POINT][0].tolist() == [False, True, True, False]
    assert _found([[3e38] * 4, [3.4e38, 0, 0, 0]], "bfloat16", float("inf")) == [False, True]
