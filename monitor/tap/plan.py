"""A watch plan as matrices: per hook point one matrix, one bias, one threshold per direction."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch

from monitor.errors import FeaturewatchError
from monitor.rpc import floats_from_bytes
from monitor.tap.sites import Site
from monitor.v1 import tap_pb2

_KNOWN_RULES = (
    tap_pb2.DIRECTION_RULE_IDENTITY,
    tap_pb2.DIRECTION_RULE_RELU,
    tap_pb2.DIRECTION_RULE_JUMPRELU,
)


@dataclass(frozen=True)
class HookWeights:
    """The directions of one hook point.

    Attributes:
        site: the tapped site.
        name: hook point as the plan writes it.
        w_dk: float32 [d, K]; on the host until the encoder has adopted the plan, then on the engine's device.
        bias_k: float32 [K].
        threshold_k: float32 [K]; activations at or below it are 0. Minus infinity for identity directions.
        has_threshold: False when every direction is an identity.
    """

    site: Site
    name: str
    w_dk: torch.Tensor
    bias_k: torch.Tensor
    threshold_k: torch.Tensor
    has_threshold: bool

    def encode(self, x_nd: torch.Tensor) -> torch.Tensor:
        """Activations float32 [n, K] of residual rows [n, d] in any float dtype. NaN stays NaN."""
        acts_nk = torch.addmm(self.bias_k, x_nd.float(), self.w_dk)
        if self.has_threshold:
            acts_nk.masked_fill_(acts_nk <= self.threshold_k, 0.0)
        return acts_nk

    def to(self, device: torch.device) -> HookWeights:
        """The same directions on `device`."""
        return replace(
            self,
            w_dk=self.w_dk.to(device),
            bias_k=self.bias_k.to(device),
            threshold_k=self.threshold_k.to(device),
        )


@dataclass(frozen=True)
class ActivePlan:
    """A watch plan under which the tap encodes. `digest` names its content, whatever version a sidecar gives it."""

    digest: str
    version: int
    hooks: tuple[HookWeights, ...]
    directions: int


def prepare_plan(message: tap_pb2.WatchPlan, sites: Mapping[str, Site]) -> ActivePlan:
    """Reads a plan, on the host: it arrives in the publisher's thread, possibly while vLLM captures CUDA graphs, which
    an allocation on the device from another thread would break.

    Raises:
        FeaturewatchError: a hook point is not tapped, a width or a rule does not fit.
        WireFormatError: a tensor has the wrong size.
    """
    hooks = tuple(_prepare(hook, sites) for hook in message.hooks if hook.count)
    content = tap_pb2.WatchPlan(hooks=message.hooks).SerializeToString(deterministic=True)
    return ActivePlan(
        digest=hashlib.sha256(content).hexdigest(),
        version=message.version,
        hooks=hooks,
        directions=sum(hook.count for hook in message.hooks),
    )


def _prepare(hook: tap_pb2.HookPlan, sites: Mapping[str, Site]) -> HookWeights:
    site = sites.get(hook.hook_point)
    if site is None:
        raise FeaturewatchError(
            f"watch plan with hook point {hook.hook_point!r}",
            f"this engine taps {', '.join(sites)}",
            "add the hook point to the tap's configuration and start the engine again",
        )
    width = site.buffer_nd.shape[1]
    if hook.width != width:
        raise FeaturewatchError(
            f"watch plan of width {hook.width} at {hook.hook_point}",
            f"the residual stream has width {width}",
            "use directions that were trained on this model",
        )
    if len(hook.rules) != hook.count or any(rule not in _KNOWN_RULES for rule in hook.rules):
        raise FeaturewatchError(
            f"watch plan with rules {sorted(set(hook.rules))} for {hook.count} directions at {hook.hook_point}",
            "every direction has one of the rules identity, relu, jumprelu",
            "run a sidecar of the same featurewatch version",
        )
    weights_kd = floats_from_bytes(hook.weights, (hook.count, width), "WatchPlan.weights")
    bias_k = floats_from_bytes(hook.biases, (hook.count,), "WatchPlan.biases")
    jump_k = floats_from_bytes(hook.thresholds, (hook.count,), "WatchPlan.thresholds") if hook.thresholds else None
    rules_k = np.array(hook.rules)
    threshold_k = np.where(rules_k == tap_pb2.DIRECTION_RULE_IDENTITY, -np.inf, 0.0).astype(np.float32)
    jumps = rules_k == tap_pb2.DIRECTION_RULE_JUMPRELU
    if jumps.any():
        if jump_k is None:
            raise FeaturewatchError(
                f"watch plan without thresholds at {hook.hook_point}",
                "jumprelu directions need them",
                "run a sidecar of the same featurewatch version",
            )
        threshold_k[jumps] = np.maximum(jump_k, 0.0)[jumps]
    return HookWeights(
        site=site,
        name=hook.hook_point,
        w_dk=torch.from_numpy(weights_kd.copy()).t().contiguous(),
        bias_k=torch.from_numpy(bias_k.copy()),
        threshold_k=torch.from_numpy(threshold_k),
        has_threshold=bool(np.isfinite(threshold_k).any()),
    )
