"""Puts other values in the place of a model's activations at a hook point, while it runs."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from training.harvest.sites import Place

Floats = npt.NDArray[np.float32]


@contextlib.contextmanager
def replacing(place: Place, kept_bt: npt.NDArray[np.bool_], replace: Callable[[Floats], Floats]) -> Iterator[None]:
    """While it is open, the kept rows at `place` are what `replace` makes of them; all others stay.

    Args:
        place: where in the network.
        kept_bt: rows [b, t] of the batch that is run.
        replace: rows [n, d] to rows [n, d].
    """

    def changed(value: Tensor) -> Tensor:
        # Some families flatten batch and token before the MLP.
        rows_ne = value.reshape(-1, value.shape[-1])
        chosen_n = torch.from_numpy(kept_bt.reshape(-1)).to(value.device)
        given_nd = (rows_ne[chosen_n] * place.factor).float().cpu().numpy()
        new_nd = torch.from_numpy(np.array(replace(given_nd), np.float32)) / place.factor
        out_ne = rows_ne.clone()
        out_ne[chosen_n] = new_nd.to(rows_ne)
        return out_ne.reshape(value.shape)

    def before(_module: nn.Module, inputs: Any, named_inputs: dict[str, Any]) -> Any:
        if inputs:
            return (changed(inputs[0]), *inputs[1:]), named_inputs
        return inputs, {**named_inputs, "hidden_states": changed(named_inputs["hidden_states"])}

    def after(_module: nn.Module, _inputs: Any, output: Any) -> Any:
        return (changed(output[0]), *output[1:]) if isinstance(output, tuple) else changed(output)

    handle = (
        place.module.register_forward_pre_hook(before, with_kwargs=True)
        if place.is_input
        else place.module.register_forward_hook(after)
    )
    try:
        yield
    finally:
        handle.remove()
