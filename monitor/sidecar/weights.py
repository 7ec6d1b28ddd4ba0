"""Weights of directions: encoder rows of dictionaries, weights of dense probes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from monitor.policy import DirectionRef
from monitor.rpc import floats_to_bytes
from monitor.sae import JumpRelu
from monitor.sidecar.sources_search import SearchSources
from monitor.v1.tap_pb2 import DirectionRule, HookPlan


@dataclass(frozen=True)
class DirectionRow:
    """``pre = weight_d . x + bias``, then `rule`; `threshold` counts for JUMPRELU only."""

    weight_d: npt.NDArray[np.float32]
    bias: float
    rule: DirectionRule.ValueType
    threshold: float


def direction_row(direction: DirectionRef, sources: SearchSources) -> DirectionRow:
    """The weights of one direction; raises FeaturewatchError when its source is gone."""
    if direction.kind == "dense":
        probe = sources.dense_weights(direction.source)
        return DirectionRow(probe.weight_d, probe.bias, DirectionRule.DIRECTION_RULE_IDENTITY, 0.0)
    dictionary = sources.dictionary(direction.source)
    weight_d, bias = dictionary.w_enc_md[direction.index], float(dictionary.b_enc_m[direction.index])
    if isinstance(dictionary.activation, JumpRelu):
        threshold = float(dictionary.activation.threshold_m[direction.index])
        return DirectionRow(weight_d, bias, DirectionRule.DIRECTION_RULE_JUMPRELU, threshold)
    return DirectionRow(weight_d, bias, DirectionRule.DIRECTION_RULE_RELU, 0.0)


def hook_plan(hook_point: str, rows: Sequence[DirectionRow]) -> HookPlan:
    """The directions of one hook point as the tap wants them."""
    weights_kd = np.stack([row.weight_d for row in rows])
    return HookPlan(
        hook_point=hook_point,
        width=weights_kd.shape[1],
        count=len(rows),
        weights=floats_to_bytes(weights_kd),
        biases=floats_to_bytes(np.array([row.bias for row in rows])),
        rules=[row.rule for row in rows],
        thresholds=floats_to_bytes(np.array([row.threshold for row in rows])),
    )
