"""Pipeline parallelism: two ranks, each with vLLM's placeholders for what the other one holds. Every hook point is
tapped by exactly one of them, where the stream is whole."""

from __future__ import annotations

import pytest
import torch
from support.toy_layers import WIDTH, FusedNorm, PairLayer, PlainLayer
from torch import nn

from monitor.errors import FeaturewatchError
from monitor.sae import HookPoint
from monitor.tap.sites import Site, install_sites

LAYERS, ROWS = 4, 16


class Stage(nn.Module):
    """One rank's part of a model; `forward` as in vLLM's models, whose intermediate tensors are (x, residual) or x."""

    def __init__(self, layers: list[nn.Module], first: int, last: int, norm: nn.Module) -> None:
        from vllm.model_executor.models.utils import PPMissingLayer

        super().__init__()
        mine = range(first, last)
        self.start, self.end = first, last
        self.layers = nn.ModuleList(layer if at in mine else PPMissingLayer() for at, layer in enumerate(layers))
        self.norm = norm if last == len(layers) else PPMissingLayer()
        self.truth: dict[int, torch.Tensor] = {}

    def forward(
        self, x: torch.Tensor, residual: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        for at in range(self.start, self.end):
            if isinstance(self.layers[at], PairLayer):
                x, residual = self.layers[at](x, residual)
                self.truth[at] = x + residual
            else:
                x = self.layers[at](x)
                self.truth[at] = x
        if self.end < len(self.layers):
            return x, residual
        if residual is None:
            return self.norm(x), None
        normed, _ = self.norm(x, residual)
        return normed, None


def _stages(kind: str, border: int) -> list[Stage]:
    layers: list[nn.Module] = [PairLayer(FusedNorm()) if kind == "pair" else PlainLayer() for _ in range(LAYERS)]
    return [Stage(layers, *part, FusedNorm()) for part in ((0, border), (border, LAYERS))]


def _install(stage: Stage, *layers: int, drafter: nn.Module | None = None) -> list[Site]:
    return install_sites(
        stage,
        [HookPoint(layer) for layer in layers],
        num_layers=LAYERS,
        width=WIDTH,
        max_rows=ROWS,
        dtype=torch.float32,
        device=torch.device("cpu"),
        model_name="test",
        drafter=drafter,
    )


@pytest.mark.parametrize("border", [1, 2, 3])
@pytest.mark.parametrize("kind", ["pair", "single stream"])
def test_each_hook_point_is_tapped_by_one_rank_and_holds_its_layers_output(kind: str, border: int) -> None:
    first, last = stages = _stages(kind, border)
    sites = [_install(stage, *range(LAYERS)) for stage in stages]
    tapped = [[site.hook_point.layer for site in rank] for rank in sites]
    # A pair is only added up by the layer behind, so the border's layer belongs to the second rank.
    split = border - 1 if kind == "pair" else border
    assert tapped == [list(range(split)), list(range(split, LAYERS))]
    last(*first(torch.randn(5, WIDTH)))
    truth = first.truth | last.truth
    for site in (*sites[0], *sites[1]):
        assert int(site.fired) == 1
        torch.testing.assert_close(site.buffer_nd[:5], truth[site.hook_point.layer])


def test_a_rank_that_holds_no_hook_point_is_left_alone() -> None:
    first, last = _stages("pair", 2)
    assert _install(first, 3) == []
    assert _install(last, 0) == []
    assert not any(module._forward_hooks for stage in (first, last) for module in stage.modules())


def test_a_pair_that_nobody_adds_up_is_refused_by_the_rank_that_would_tap_it() -> None:
    layers: list[nn.Module] = [PairLayer(nn.LayerNorm(WIDTH)) for _ in range(LAYERS)]
    first, last = (Stage(layers, *part, FusedNorm()) for part in ((0, 2), (2, LAYERS)))
    assert _install(first, 1) == []
    with pytest.raises(FeaturewatchError, match="hand on two tensors"):
        _install(last, 1)


def test_a_module_that_the_drafting_model_runs_too_is_refused() -> None:
    (stage,) = [Stage([PlainLayer() for _ in range(LAYERS)], 0, LAYERS, FusedNorm())]
    drafter = nn.ModuleList([stage.layers[3], stage.norm])
    with pytest.raises(FeaturewatchError, match=r"resid_post\.3 .*the drafting model runs this module too"):
        _install(stage, 2, 3, drafter=drafter)
    assert not any(module._forward_hooks for module in stage.modules())
    assert len(_install(stage, 2, drafter=drafter)) == 1
