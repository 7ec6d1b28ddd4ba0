"""Rules from pre-activations to latents."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from monitor.errors import FeaturewatchError

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Relu:
    """``f = max(pre, 0)``."""


@dataclass(frozen=True)
class JumpRelu:
    """``f = pre`` where ``pre > threshold`` and ``pre > 0``, else 0 (arXiv 2407.14435)."""

    threshold_m: Floats


@dataclass(frozen=True)
class TopK:
    """The `k` largest pre-activations of a row, the lower index where two are equal, as far as they are positive
    (arXiv 2406.04093)."""

    k: int


@dataclass(frozen=True)
class GroupMax:
    """The largest of each of `groups` runs of m / groups neighbours, as far as it is positive (EleutherAI sparsify)."""

    groups: int


Activation = Relu | JumpRelu | TopK | GroupMax


def check_activation(activation: Activation, num_latents: int) -> None:
    """Raises FeaturewatchError where the rule does not fit a dictionary of `num_latents`."""
    if isinstance(activation, JumpRelu) and (activation.threshold_m < 0).any():
        raise FeaturewatchError(
            f"SAE with {int((activation.threshold_m < 0).sum())} negative thresholds, "
            f"the smallest {activation.threshold_m.min():.4g}",
            "a threshold is 0 or more",
            "the file is damaged, or its threshold was never set: train on, or store the SAE again",
        )
    if isinstance(activation, TopK) and not 1 <= activation.k <= num_latents:
        raise FeaturewatchError(
            f"SAE with k = {activation.k}", f"k lies between 1 and its {num_latents} latents", "correct k"
        )
    if isinstance(activation, GroupMax) and (activation.groups < 1 or num_latents % activation.groups):
        raise FeaturewatchError(
            f"SAE with {activation.groups} groups",
            f"its {num_latents} latents must fall into groups of equal size",
            "correct the number of groups",
        )


def activate_(pre_nm: Floats, activation: Activation) -> None:
    """Turns pre-activations [n, m] into latents in place."""
    if isinstance(activation, JumpRelu):
        pre_nm[pre_nm <= activation.threshold_m] = 0.0
    np.maximum(pre_nm, 0.0, out=pre_nm)
    if isinstance(activation, TopK):
        _keep_largest(pre_nm, activation.k)
    elif isinstance(activation, GroupMax):
        _keep_largest(pre_nm.reshape(-1, pre_nm.shape[1] // activation.groups), 1)


def _keep_largest(f_nm: Floats, k: int) -> None:
    """Zeroes all but the k largest of each row; the rows hold nothing negative."""
    if not f_nm.size or k >= f_nm.shape[1]:
        return
    least_n = np.partition(f_nm, -k, axis=1)[:, -k]
    f_nm[f_nm < least_n[:, None]] = 0.0
    for row in np.flatnonzero(np.count_nonzero(f_nm, axis=1) > k):
        equal = np.flatnonzero(f_nm[row] == least_n[row])
        f_nm[row, equal[k - np.count_nonzero(f_nm[row] > least_n[row]) :]] = 0.0
