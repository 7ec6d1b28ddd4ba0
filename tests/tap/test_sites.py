"""The residual stream is found by structure, read at the right place, and counted when it is."""

from __future__ import annotations

import pytest
import torch
from support.toy_layers import WIDTH, FusedNorm, PairLayer, PlainLayer
from torch import nn

from monitor.errors import FeaturewatchError
from monitor.sae import HookPoint
from monitor.tap.sites import Site, install_sites

ROWS = 16


class Model(nn.Module):
    def __init__(self, layers: list[nn.Module], norm: nn.Module) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.norm = norm
        self.truth: list[torch.Tensor] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        residual = None
        self.truth = []
        for layer in self.layers:
            if isinstance(layer, PairLayer):
                x, residual = layer(x, residual)
                self.truth.append(x + residual)
            else:
                x = layer(x)
                self.truth.append(x)
        if residual is not None:
            normed, _ = self.norm(x, residual)
            return normed
        return self.norm(x)


class DerivedModel(Model):
    """Leaves the work to the class above, as Mistral does in vLLM."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Nothing of its own."""
        return super().forward(x)


class OutdatedPairLayer(nn.Module):
    """Returns the finished stream beside a residual that is part of it already, as Command R does in vLLM."""

    def __init__(self) -> None:
        super().__init__()
        self.input_layernorm = nn.LayerNorm(WIDTH)
        self.mix = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: torch.Tensor, residual: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        return x + self.mix(self.input_layernorm(x)), x


class HiddenPairLayer(nn.Module):
    """Returns a pair and takes none, as StableLM does in vLLM."""

    def __init__(self) -> None:
        super().__init__()
        self.input_layernorm = nn.LayerNorm(WIDTH)
        self.mix = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        residual = x
        return residual + self.mix(self.input_layernorm(x)), residual


class NormAfterLayer(nn.Module):
    """Norms behind the attention, as Molmo does in vLLM: its `input_layernorm` never sees the stream."""

    def __init__(self) -> None:
        super().__init__()
        self.input_layernorm = FusedNorm()
        self.mix = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: torch.Tensor, residual: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor | None]:
        return x + self.input_layernorm(self.mix(x)), residual


class NoResidualLayer(nn.Module):
    """Takes a residual as the others do, and hands on none, as Gemma 4 does in vLLM."""

    def __init__(self) -> None:
        super().__init__()
        self.input_layernorm = FusedNorm()
        self.mix = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: torch.Tensor, residual: torch.Tensor | None) -> tuple[torch.Tensor, None]:
        return x + self.mix(self.input_layernorm(x)), None


class OneTupleLayer(PlainLayer):
    """Returns a tuple of one tensor, as some of Hugging Face's layers do."""

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor]:  # type: ignore[override]
        return (x + self.mix(x),)


class Chain(nn.Module):
    def __init__(self, layers: list[nn.Module]) -> None:
        super().__init__()
        self.layers, self.norm = nn.ModuleList(layers), FusedNorm()
        self.truth: list[torch.Tensor] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        residual = None
        self.truth = []
        for layer in self.layers:
            x, residual = layer(x, residual)
            self.truth.append(x)
        return self.norm(x)


def _pair() -> Model:
    return Model([PairLayer(FusedNorm()) for _ in range(3)], FusedNorm())


def _install(model: nn.Module, *layers: int) -> list[Site]:
    return install_sites(
        model,
        [HookPoint(layer) for layer in layers],
        num_layers=3,
        width=WIDTH,
        max_rows=ROWS,
        dtype=torch.float32,
        device=torch.device("cpu"),
        model_name="test",
    )


@pytest.mark.parametrize(
    ("model", "where"),
    [
        (_pair(), ["input norm of the next layer", "input norm of the next layer", "final norm"]),
        (
            DerivedModel([PairLayer(FusedNorm()) for _ in range(3)], FusedNorm()),
            ["input norm of the next layer", "input norm of the next layer", "final norm"],
        ),
        (Model([PlainLayer() for _ in range(3)], FusedNorm()), ["output of the layer"] * 3),
        (Chain([NoResidualLayer() for _ in range(3)]), ["output of the layer"] * 3),
    ],
    ids=["pairs", "pairs, forward of the class above", "single stream", "single stream in pairs"],
)
@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
def test_buffers_hold_each_layers_output(model: Model | Chain, where: list[str], compiled: bool) -> None:
    for module in model.modules():
        module._forward_hooks.clear()
        module._buffers.clear()
    torch._dynamo.reset()
    sites = _install(model, 0, 1, 2)
    assert [site.where.split(" (")[0] for site in sites] == where
    forward = torch.compile(model, backend="aot_eager", fullgraph=True) if compiled else model
    for rows in (5, ROWS, 3):
        with torch.inference_mode():
            x = torch.randn(rows, WIDTH)
            forward(x)
            fired = [int(site.fired) for site in sites]
            seen = [site.buffer_nd[:rows].clone() for site in sites]
            model(x)
        assert all(count > 0 for count in fired)
        for buffer, truth in zip(seen, model.truth, strict=True):
            torch.testing.assert_close(buffer, truth)


@pytest.mark.parametrize("layer", [OutdatedPairLayer, HiddenPairLayer, NormAfterLayer])
@pytest.mark.parametrize("index", [1, 2])
def test_a_stream_that_cannot_be_told_is_refused(layer: type[nn.Module], index: int) -> None:
    with pytest.raises(FeaturewatchError, match=f"resid_post.{index} of a model with layers {layer.__name__}: .* two"):
        _install(Chain([layer() for _ in range(3)]), index)


def test_a_forward_that_adds_something_to_the_one_above_is_not_taken_for_it() -> None:
    class Wrapped(Model):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) * 2

    with pytest.raises(FeaturewatchError, match=r"resid_post\.2 of a model with layers PairLayer: .* two"):
        _install(Wrapped([PairLayer(FusedNorm()) for _ in range(3)], FusedNorm()), 2)


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
def test_a_tensor_too_many_leaves_the_hook_point_silent(compiled: bool) -> None:
    class Surprise(PlainLayer):
        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:  # type: ignore[override]
            both = x, self.mix(x)
            return both

    class Stack(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList(Surprise() for _ in range(3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for layer in self.layers:
                x, _ = layer(x)
            return x

    torch._dynamo.reset()
    model = Stack()
    (site,) = _install(model, 1)
    forward = torch.compile(model, backend="aot_eager", fullgraph=True) if compiled else model
    forward(torch.randn(3, WIDTH))
    assert int(site.fired) == 0


def test_more_rows_than_the_buffer_holds_do_not_fail_the_forward_pass() -> None:
    model = _pair()
    (site,) = _install(model, 1)
    with torch.inference_mode():
        assert model(torch.randn(ROWS + 5, WIDTH)).shape == (ROWS + 5, WIDTH)
    torch.testing.assert_close(site.buffer_nd, model.truth[1][:ROWS])


def test_rows_with_a_leading_one_are_copied_and_other_shapes_leave_the_hook_point_silent() -> None:
    """As vLLM's Transformers backend runs layers; and as Gemma 3n stacks several streams."""
    model = nn.Module()
    model.layers = nn.ModuleList(PlainLayer() for _ in range(3))
    (site,) = _install(model, 1)
    layer, x = model.layers[1], torch.randn(1, 5, WIDTH)
    with torch.inference_mode():
        truth = layer(x)
        assert int(site.fired) == 1
        torch.testing.assert_close(site.buffer_nd[:5], truth[0])
        for shape in ((4, 5, WIDTH), (5, WIDTH)):
            layer(torch.randn(shape))
        assert int(site.fired) == 2


def test_a_tuple_of_one_tensor_is_a_single_stream() -> None:
    model = nn.Module()
    model.layers = nn.ModuleList(OneTupleLayer() for _ in range(3))
    (site,) = _install(model, 2)
    with torch.inference_mode():
        (truth,) = model.layers[2](torch.randn(5, WIDTH))
    torch.testing.assert_close(site.buffer_nd[:5], truth)


def test_buffers_are_no_part_of_the_checkpoint() -> None:
    model = _pair()
    before = set(model.state_dict())
    _install(model, 1)
    assert set(model.state_dict()) == before


def test_a_layer_that_the_model_lacks_is_refused() -> None:
    with pytest.raises(FeaturewatchError, match=r"hook point 'resid_post.3': model test has layers 0 to 2"):
        _install(_pair(), 3)


def test_a_model_without_decoder_layers_is_refused() -> None:
    with pytest.raises(FeaturewatchError, match="list of 3 decoder layers"):
        _install(nn.Linear(2, 2), 0)
