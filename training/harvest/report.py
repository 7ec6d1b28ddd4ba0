"""What a harvest left out, for people."""

from __future__ import annotations

from dataclasses import dataclass

from training.harvest.manifest import NORM_QUANTILES, Manifest


@dataclass(frozen=True)
class Share:
    """Positions of the training text with one fate: kept, or left out for a reason."""

    reason: str
    positions: int
    share: float


def shares(counts: dict[str, int]) -> list[Share]:
    """Of all positions of text, what was kept first, then by size; padding is no text.

    Args:
        counts: positions by reason, as a manifest holds them.
    """
    total = sum(counts.values()) - counts.get("padding", 0)
    found = [Share(reason, count, count / total) for reason, count in counts.items() if reason != "padding" and count]
    return sorted(found, key=lambda share: (share.reason != "kept", -share.positions))


def report(manifest: Manifest) -> str:
    """Positions by reason, and quantiles of the norms per hook point."""
    lines = [f"{manifest.rows:,} rows at {', '.join(manifest.hook_points)}; forward in {manifest.forward_dtype}"]
    lines += [f"  {share.reason:<10}{share.positions:>14,}{share.share:>9.2%}" for share in shares(manifest.counts)]
    if manifest.norm_quantiles:
        lines.append("norms of content rows in the first batches, at quantiles")
        lines.append(" " * 14 + "".join(f"{quantile:>10g}" for quantile in NORM_QUANTILES) + "   outliers")
    for point, quantiles in manifest.norm_quantiles.items():
        figures = "".join(f"{quantiles[str(quantile)]:>10.1f}" for quantile in NORM_QUANTILES)
        lines.append(f"  {point:<12}{figures}{manifest.outliers_by_hook_point.get(point, 0):>11,}")
    lines.append(f"{manifest.heldout_rows:,} positions held out")
    return "\n".join(lines)
