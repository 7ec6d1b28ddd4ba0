"""What a card says of positions that were left out."""

from __future__ import annotations

from training.card.left_out import left_out, outlier_rule
from training.harvest.manifest import Manifest

QUANTILES = {"resid_post.1": {"0.01": 1.0, "0.1": 2.0, "0.5": 3.0, "0.9": 4.0, "0.99": 5.0, "1.0": 60.0}}


def test_shares_of_all_positions_and_norms() -> None:
    assert left_out(750, {"bos": 50, "outlier": 200}, QUANTILES).splitlines() == [
        "| reason | positions | share |",
        "|---|---|---|",
        "| kept | 750 | 75.00% |",
        "| outlier | 200 | 20.00% |",
        "| bos | 50 | 5.00% |",
        "",
        "Norms of content rows before outliers were left out, at quantiles, in the first batches:",
        "",
        "| hook point | 0.01 | 0.1 | 0.5 | 0.9 | 0.99 | 1 |",
        "|---|---|---|---|---|---|---|",
        "| resid_post.1 | 1.0 | 2.0 | 3.0 | 4.0 | 5.0 | 60.0 |",
    ]
    assert "quantiles" not in left_out(1, {}, {})


def test_the_rule_says_what_was_kept() -> None:
    manifest = Manifest(4, [], "float16", [], {"outlier_factor": 6.0}, medians={"resid_post.1": 2.0})
    assert "above 6 times the median there (resid_post.1: median 2.0)" in outlier_rule(manifest)
    manifest.settings["keep_outliers"] = True
    assert "Rows of any norm were kept" in outlier_rule(manifest)
