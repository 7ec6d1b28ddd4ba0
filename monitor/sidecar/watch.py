"""Which directions a tap watches for all editions of the policies that judge its requests, and in which columns."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from monitor.policy.hook_names import layer_of
from monitor.sidecar.frame_rows import HookColumns
from monitor.sidecar.plan import TapPlan
from monitor.v1.tap_pb2 import DirectionRule, HookPlan, WatchPlan

_FLOAT_BYTES = 4


class DirectionKey(NamedTuple):
    """A direction as the tap computes it: `sha256` is of its weights, which a file may exchange under one name."""

    hook_point: str
    kind: str
    source: str
    latent: int
    sha256: bytes


@dataclass(frozen=True, slots=True)
class _Row:
    """One direction's part of a HookPlan."""

    weights: bytes
    bias: bytes
    rules: tuple[DirectionRule.ValueType, ...]
    threshold: bytes


def direction_keys(plan: TapPlan) -> tuple[DirectionKey, ...]:
    """The directions of a plan, in its order of columns."""
    rows = [row for hook in plan.watch_plan.hooks for row in _rows(hook)]
    keys = []
    for direction, row in zip(plan.policies.directions, rows, strict=True):
        digest = hashlib.sha256(b"".join((row.weights, row.bias, bytes(row.rules), row.threshold))).digest()
        keys.append(DirectionKey(direction.hook_point, direction.kind, direction.source, direction.index, digest))
    return tuple(keys)


@dataclass(frozen=True)
class Watch:
    """What a tap is told to watch, as `version`; `keys` are in the order of columns, by hook point."""

    version: int
    keys: tuple[DirectionKey, ...]

    @cached_property
    def hooks(self) -> tuple[HookColumns, ...]:
        """Columns per hook point."""
        by_hook = groupby(self.keys, key=lambda key: key.hook_point)
        return tuple(HookColumns(hook_point, len([*keys])) for hook_point, keys in by_hook)

    @cached_property
    def _column_of(self) -> dict[DirectionKey, int]:
        return {key: column for column, key in enumerate(self.keys)}

    def covers(self, keys: Iterable[DirectionKey]) -> bool:
        return all(key in self._column_of for key in keys)

    def columns(self, keys: tuple[DirectionKey, ...]) -> npt.NDArray[np.int64] | None:
        """Where directions are among the columns; None when they are all of them, in this order. Raises KeyError."""
        if keys == self.keys:
            return None
        return np.array([self._column_of[key] for key in keys], np.int64)


def merged_keys(of_plans: Sequence[tuple[DirectionKey, ...]]) -> tuple[DirectionKey, ...]:
    """Each direction of some plans once, by layer; those of one plan as they are."""
    if len(of_plans) == 1:
        return of_plans[0]
    merged = {key for keys in of_plans for key in keys}
    return tuple(sorted(merged, key=lambda key: (layer_of(key.hook_point), *key)))


def watch_message(watch: Watch, plans: Sequence[tuple[tuple[DirectionKey, ...], TapPlan]]) -> WatchPlan:
    """What the tap is sent.

    Args:
        plans: with their directions; together they have all of `watch`.
    """
    row_of: dict[DirectionKey, _Row] = {}
    width_of: dict[str, int] = {}
    for keys, plan in plans:
        row_of.update(zip(keys, (row for hook in plan.watch_plan.hooks for row in _rows(hook)), strict=True))
        width_of.update({hook.hook_point: hook.width for hook in plan.watch_plan.hooks})
    message = WatchPlan(version=watch.version)
    for hook_point, keys_here in groupby(watch.keys, key=lambda key: key.hook_point):
        rows = [row_of[key] for key in keys_here]
        hook = message.hooks.add(hook_point=hook_point, width=width_of[hook_point], count=len(rows))
        hook.weights = b"".join(row.weights for row in rows)
        hook.biases = b"".join(row.bias for row in rows)
        hook.rules.extend(rule for row in rows for rule in row.rules)
        hook.thresholds = b"".join(row.threshold for row in rows)
    return message


def _rows(hook: HookPlan) -> list[_Row]:
    size, number = hook.width * _FLOAT_BYTES, _FLOAT_BYTES
    return [
        _Row(
            hook.weights[k * size : (k + 1) * size],
            hook.biases[k * number : (k + 1) * number],
            tuple(hook.rules[k : k + 1]),
            hook.thresholds[k * number : (k + 1) * number],
        )
        for k in range(hook.count)
    ]
