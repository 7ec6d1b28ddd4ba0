"""Rows, random weights, and when two SAEs count as the same."""

from __future__ import annotations

import numpy as np
import torch

from monitor.sae import Dictionary

D, M, K = 16, 96, 7


def rows(n: int = 200, seed: int = 5) -> torch.Tensor:
    return torch.randn((n, D), generator=torch.Generator().manual_seed(seed)) * 2 + 0.5


@torch.no_grad()
def randomise(module: torch.nn.Module, seed: int = 1) -> None:
    """Gives every floating parameter values of about 1, so that no bias and no norm stays without effect."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in module.named_parameters():
        drawn = torch.randn(parameter.shape, generator=generator)
        # Thresholds are positive; logarithms and scales of magnitudes stay small.
        if name == "threshold":
            drawn = drawn.abs() * 2
        elif "log" in name or name == "r_mag":
            drawn = drawn * 0.5
        parameter.copy_(drawn)


def agree(
    ours: Dictionary,
    x_nd: torch.Tensor,
    codes_nm: torch.Tensor,
    x_hat_nd: torch.Tensor,
    unit_m: torch.Tensor | float = 1.0,
) -> None:
    """Our codes are theirs times `unit_m`, and the reconstructions are equal."""
    x = x_nd.numpy()
    f_nm, expected_nm = ours.encode(x), (codes_nm * unit_m).detach().numpy()
    share = np.count_nonzero(expected_nm) / expected_nm.size
    assert 0.02 < share < 0.9, f"{share:.1%} of the latents fire, which compares little"
    scale = np.abs(expected_nm).max()
    different = np.abs(f_nm - expected_nm) > 1e-4 * scale
    assert not different.any(), f"{different.sum()} of {different.size} codes differ"
    np.testing.assert_allclose(ours.reconstruct(x), x_hat_nd.detach().numpy(), rtol=1e-3, atol=1e-3)
