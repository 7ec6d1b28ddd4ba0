"""Watched directions become activations; plans that do not fit are refused."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch

from monitor.errors import FeaturewatchError
from monitor.rpc import WireFormatError, floats_to_bytes
from monitor.sae import HookPoint
from monitor.tap.encode import CpuEncoder
from monitor.tap.plan import prepare_plan
from monitor.tap.record import KeptRows, Payload
from monitor.tap.sites import Site
from monitor.v1 import tap_pb2

WIDTH = 6
IDENTITY, RELU, JUMP = (
    tap_pb2.DIRECTION_RULE_IDENTITY,
    tap_pb2.DIRECTION_RULE_RELU,
    tap_pb2.DIRECTION_RULE_JUMPRELU,
)
CPU = torch.device("cpu")


def _site(layer: int, dtype: torch.dtype = torch.float32) -> Site:
    return Site(HookPoint(layer), torch.randn(16, WIDTH).to(dtype), torch.zeros(1, dtype=torch.int64), "", None)


def _hook(layer: int, rules: list[int], thresholds: list[float], seed: int = 0) -> tap_pb2.HookPlan:
    random = np.random.default_rng(seed)
    return tap_pb2.HookPlan(
        hook_point=f"resid_post.{layer}",
        width=WIDTH,
        count=len(rules),
        weights=floats_to_bytes(random.normal(size=(len(rules), WIDTH))),
        biases=floats_to_bytes(random.normal(size=len(rules))),
        rules=rules,
        thresholds=floats_to_bytes(np.array(thresholds)),
    )


def _expected(hook: tap_pb2.HookPlan, x_nd: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """The proto's definition of the rules, written down row by row."""
    weights = np.frombuffer(hook.weights, "<f4").reshape(hook.count, WIDTH)
    biases, thresholds = np.frombuffer(hook.biases, "<f4"), np.frombuffer(hook.thresholds, "<f4")
    pre = x_nd @ weights.T + biases
    for k, rule in enumerate(hook.rules):
        if rule == RELU:
            pre[:, k] = np.where(pre[:, k] > 0, pre[:, k], 0)
        elif rule == JUMP:
            pre[:, k] = np.where((pre[:, k] > thresholds[k]) & (pre[:, k] > 0), pre[:, k], 0)
    return pre


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kept", [None, [0, 3, 4]])
def test_activations_follow_the_rules(dtype: torch.dtype, kept: list[int] | None) -> None:
    sites = [_site(2, dtype), _site(5, dtype)]
    mixed = _hook(2, [IDENTITY, RELU, JUMP, JUMP], [0.0, 9.0, 0.7, -0.5])
    plain = _hook(5, [IDENTITY, IDENTITY], [0.0, 0.0], seed=1)
    plan = prepare_plan(tap_pb2.WatchPlan(version=4, hooks=[mixed, plain]), {str(s.hook_point): s for s in sites})
    encoder = CpuEncoder(sites)
    payload: Payload | None = encoder.encode(plan, torch.arange(100, 120), 5)
    assert payload is not None
    if kept is not None:
        whole, payload = payload.nbytes, KeptRows(payload, np.array(kept), 5)
        assert payload.nbytes == whole  # all of it is held
    rows = payload.read()
    chosen = slice(0, 5) if kept is None else kept
    assert rows.token_ids_n.tolist() == np.arange(100, 105)[chosen].tolist()
    for (name, acts_nk), hook, site, weights in zip(rows.activations, (mixed, plain), sites, plan.hooks, strict=True):
        x_nd = site.buffer_nd[:5].float().numpy()[chosen]
        assert name == hook.hook_point
        np.testing.assert_allclose(acts_nk, _expected(hook, x_nd), rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(weights.encode(torch.from_numpy(x_nd)).numpy(), acts_nk, rtol=1e-5, atol=1e-5)
    assert (plan.version, plan.directions) == (4, 6)


def test_activations_do_not_change_when_the_buffer_is_written_again() -> None:
    site = _site(2)
    plan = prepare_plan(tap_pb2.WatchPlan(hooks=[_hook(2, [IDENTITY], [0.0])]), {"resid_post.2": site})
    tokens = torch.arange(8)
    payload = CpuEncoder([site]).encode(plan, tokens, 4)
    assert payload is not None
    before = payload.read().activations[0][1].copy()
    site.buffer_nd.zero_()
    tokens.zero_()
    assert payload.read().token_ids_n.tolist() == [0, 1, 2, 3]
    np.testing.assert_array_equal(payload.read().activations[0][1], before)


def test_nan_is_not_turned_into_zero() -> None:
    site = _site(2)
    site.buffer_nd[1] = float("nan")
    plan = prepare_plan(tap_pb2.WatchPlan(hooks=[_hook(2, [RELU, JUMP], [0.0, 1.0])]), {"resid_post.2": site})
    payload = CpuEncoder([site]).encode(plan, torch.arange(8), 3)
    assert payload is not None
    ((_, acts_nk),) = payload.read().activations
    assert np.isnan(acts_nk[1]).all()
    assert np.isfinite(acts_nk[[0, 2]]).all()


def test_the_digest_names_the_content_and_not_the_version() -> None:
    site = {"resid_post.2": _site(2)}
    one, same, other = (
        prepare_plan(tap_pb2.WatchPlan(version=version, hooks=[_hook(2, [RELU], [0.0], seed)]), site)
        for version, seed in ((1, 0), (2, 0), (1, 1))
    )
    assert one.digest == same.digest != other.digest


def test_a_hook_point_that_did_not_fire_is_noticed() -> None:
    sites = [_site(1), _site(2)]
    encoder = CpuEncoder(sites)
    for site in sites:
        site.fired.add_(1)
    assert encoder.fired()
    encoder.mark()
    sites[0].fired.add_(1)
    assert not encoder.fired()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hook_point": "resid_post.9"}, r"hook point 'resid_post\.9': this engine taps resid_post\.2"),
        ({"width": 5}, "of width 5 at resid_post.2: the residual stream has width 6"),
        ({"rules": [RELU]}, "for 2 directions"),
        ({"rules": [RELU, 0]}, "rules"),
        ({"thresholds": b""}, "without thresholds"),
    ],
)
def test_a_plan_that_does_not_fit_is_refused(change: dict[str, object], message: str) -> None:
    hook = _hook(2, [JUMP, RELU], [0.5, 0.0])
    hook.MergeFrom(tap_pb2.HookPlan())
    for name, value in change.items():
        hook.ClearField(name)
        if isinstance(value, list):
            getattr(hook, name).extend(value)
        else:
            setattr(hook, name, value)
    with pytest.raises(FeaturewatchError, match=message):
        prepare_plan(tap_pb2.WatchPlan(hooks=[hook]), {"resid_post.2": _site(2)})


def test_a_tensor_of_the_wrong_size_is_refused() -> None:
    hook = _hook(2, [RELU, RELU], [0.0, 0.0])
    hook.weights = hook.weights[:-4]
    with pytest.raises(WireFormatError, match=r"WatchPlan\.weights has 44 bytes"):
        prepare_plan(tap_pb2.WatchPlan(hooks=[hook]), {"resid_post.2": _site(2)})
