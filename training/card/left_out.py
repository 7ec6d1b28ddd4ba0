"""What a card says of the positions that were left out of the training."""

from __future__ import annotations

from collections.abc import Mapping

from training.harvest.config import HarvestConfig
from training.harvest.manifest import NORM_QUANTILES, Manifest
from training.harvest.report import shares
from training.options import default_of


def outlier_rule(manifest: Manifest) -> str:
    """Which rows count as outliers, in words."""
    settings = manifest.settings
    factor = settings.get("outlier_factor", default_of(HarvestConfig, "outlier_factor"))
    medians = ", ".join(f"{name}: median {median:.1f}" for name, median in manifest.medians.items())
    if settings.get("keep_outliers"):
        return f"Rows of any norm were kept ({medians}), but for values that {manifest.store_dtype} cannot hold."
    return (
        f"Outliers are rows whose norm at a harvested hook point is above {factor:g} times the "
        f"median there ({medians}), or with a value that {manifest.store_dtype} cannot hold."
    )


def left_out(kept: int, excluded: Mapping[str, int], norm_quantiles: Mapping[str, Mapping[str, float]]) -> str:
    """Tables of positions by reason and, where they were measured, of the norms per hook point.

    Args:
        kept: positions.
        excluded: positions by reason.
        norm_quantiles: per hook point, as a manifest holds them.
    """
    lines = ["| reason | positions | share |", "|---|---|---|"]
    found = shares({"kept": kept, **excluded})
    lines += [f"| {share.reason} | {share.positions:,} | {share.share:.2%} |" for share in found]
    if norm_quantiles:
        names = " | ".join(f"{quantile:g}" for quantile in NORM_QUANTILES)
        lines += ["", "Norms of content rows before outliers were left out, at quantiles, in the first batches:", ""]
        lines += [f"| hook point | {names} |", "|---" * (1 + len(NORM_QUANTILES)) + "|"]
    for point, quantiles in norm_quantiles.items():
        lines.append(f"| {point} | " + " | ".join(f"{quantiles[str(q)]:.1f}" for q in NORM_QUANTILES) + " |")
    return "\n".join(lines)
