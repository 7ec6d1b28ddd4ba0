"""Held-out sequences of a cache and their float32 residuals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from monitor.errors import FeaturewatchError
from monitor.sae import HookPoint
from training.harvest.batches import make_batches
from training.harvest.cache import ActivationCache
from training.harvest.residuals import ResidualModel
from training.harvest.tokens import Reason, TokenSequence

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class HeldoutRows:
    """Rows of held-out sequences.

    Attributes:
        residuals: float32 [n, d] per hook point.
        reasons_n: uint8 [n], values of `Reason`.
        calibrates_n: bool [n]; these sequences set the threshold, the others report.
    """

    residuals: dict[HookPoint, Floats]
    reasons_n: npt.NDArray[np.uint8]
    calibrates_n: npt.NDArray[np.bool_]

    def calibration(self, hook_point: HookPoint) -> Floats:
        return np.asarray(self.residuals[hook_point][self.calibrates_n & (self.reasons_n == Reason.KEPT)])

    def mean(self, hook_point: HookPoint) -> Floats:
        """Mean of the kept rows that report, [d]."""
        return np.asarray(self.report(hook_point).mean(0, dtype=np.float64), np.float32)

    def report(self, hook_point: HookPoint, *, outliers: bool = False) -> Floats:
        """Rows of the reporting half: kept ones, or with the excluded positions (BOS, template, outliers) as well."""
        chosen_n = ~self.calibrates_n
        rows_n = chosen_n if outliers else chosen_n & (self.reasons_n == Reason.KEPT)
        return np.asarray(self.residuals[hook_point][rows_n])


def heldout_sequences(cache: ActivationCache, most_tokens: int) -> list[TokenSequence]:
    """Whole held-out sequences, at most `most_tokens` positions, spread evenly over the harvest."""
    tokens_n = cache.heldout_column("tokens")
    sequences_n = cache.heldout_column("sequences")
    reasons_n = cache.heldout_column("reasons")
    if not len(tokens_n):
        raise FeaturewatchError(
            f"activation cache {cache.folder}",
            "it holds no held-out tokens, which the threshold and the card need",
            "harvest more documents or raise --heldout-share",
        )
    starts = np.flatnonzero(np.diff(sequences_n, prepend=-1))
    ends = np.append(starts[1:], len(tokens_n))
    return chosen_sequences(
        [
            TokenSequence(tokens_n[start:end], reasons_n[start:end], True)
            for start, end in zip(starts, ends, strict=True)
        ],
        most_tokens,
    )


def chosen_sequences(sequences: Sequence[TokenSequence], most_tokens: int) -> list[TokenSequence]:
    """Whole sequences, at most `most_tokens` positions, spread evenly over all; at least one if there are any."""
    chosen: list[TokenSequence] = []
    total = 0
    for index in np.random.default_rng(0).permutation(len(sequences)):
        total += len(sequences[index].token_ids_n)
        if total > most_tokens and chosen:
            break
        chosen.append(sequences[index])
    return chosen


def reporting_half(sequences: Sequence[TokenSequence]) -> list[TokenSequence]:
    """Those that do not set the threshold (see `heldout_rows`)."""
    return list(sequences[1::2])


def reporting_sequences(cache: ActivationCache, most_tokens: int) -> list[TokenSequence]:
    """About `most_tokens` positions of held-out sequences that do not set the threshold."""
    return reporting_half(heldout_sequences(cache, 2 * most_tokens))


def heldout_rows(
    model: str, hook_points: Sequence[HookPoint], sequences: Sequence[TokenSequence], batch_tokens: int
) -> HeldoutRows:
    """Residuals of the sequences in float32, whatever dtype the harvest used. Every other sequence, from the first on,
    sets the threshold."""
    network = ResidualModel(model, hook_points, "float32")
    residuals: dict[HookPoint, list[Floats]] = {point: [] for point in network.hook_points}
    reasons, calibrates = [], []
    for half in (True, False):
        chosen = [sequence for index, sequence in enumerate(sequences) if (index % 2 == 0) == half]
        for batch in make_batches(chosen, batch_tokens):
            real_bt = batch.reasons_bt != Reason.PADDING
            for point, rows_btd in network.residuals(batch.token_ids_bt).items():
                residuals[point].append(rows_btd.numpy()[real_bt])
            reasons.append(batch.reasons_bt[real_bt])
            calibrates.append(np.full(int(real_bt.sum()), half))
    return HeldoutRows(
        {point: np.concatenate(parts) for point, parts in residuals.items()},
        np.concatenate(reasons),
        np.concatenate(calibrates),
    )


def require_halves(sequences: Sequence[TokenSequence]) -> None:
    """Raises FeaturewatchError unless both the half that sets the threshold and the one that reports have text."""
    for half, purpose in ((0, "sets the threshold"), (1, "is measured for the card")):
        if not any((sequence.reasons_n == Reason.KEPT).any() for sequence in sequences[half::2]):
            raise FeaturewatchError(
                f"{len(sequences)} held-out sequence{'' if len(sequences) == 1 else 's'}",
                f"none is left with text for the half that {purpose}",
                "raise --heldout-share, --heldout-tokens and --card-tokens, or harvest more documents",
            )
