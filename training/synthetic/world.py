"""Rows made of known features.

A row is the sum of the directions of the features that fire, each times its strength, plus noise (Elhage et al. 2022,
Toy Models of Superposition). Features are rarer the further down the list; neighbours form groups that are on or off
together, which makes them correlated; parents have children that never fire without them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from monitor.errors import FeaturewatchError
from training.synthetic.config import WorldConfig

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
_MOST_OFTEN = 0.75
_CHUNK_ROWS = 16_384


@dataclass(frozen=True)
class WorldRows:
    """Rows with what made them.

    Attributes:
        x_nd: float32 [n, d].
        strength_nf: float32 [n, features], 0 where a feature does not fire.
    """

    x_nd: Floats
    strength_nf: Floats


class World:
    """The features of a world.

    Attributes:
        direction_fd: float32 [features, d], random unit rows.
        share_f: in what share of the rows each feature fires.
        parent_f: int64, the feature without which this one does not fire; -1 for none.

    Raises:
        FeaturewatchError: a feature would have to fire in more than three quarters of the rows of its group.
    """

    def __init__(self, config: WorldConfig) -> None:
        self.config = config
        rng = np.random.default_rng([config.seed, 0])
        direction_fd = rng.standard_normal((config.features, config.width))
        direction_fd /= np.linalg.norm(direction_fd, axis=1, keepdims=True)
        self.direction_fd: Floats = direction_fd.astype(np.float32)
        self.parent_f = self._parents()
        self.share_f = self._shares()
        self._switch_f = np.arange(config.features) // config.group

    def rows(self, n: int, part: int = 0) -> WorldRows:
        """The first n rows of part `part`; parts are independent of one another (training, scoring)."""
        rng = np.random.default_rng([self.config.seed, 1, part])
        chunks = [self._chunk(rng, min(_CHUNK_ROWS, n - start)) for start in range(0, n, _CHUNK_ROWS)]
        return WorldRows(*(np.concatenate(parts) for parts in zip(*chunks, strict=True)))

    def _chunk(self, rng: np.random.Generator, n: int) -> tuple[Floats, Floats]:
        on_ng = rng.random((n, self._switch_f[-1] + 1)) < self.config.group_on
        # Given that its group is on, a feature fires more often, so that its share over all rows is share_f.
        given_f = np.where(self.parent_f < 0, self.share_f / self.config.group_on, self.config.child_share)
        fires_nf = rng.random((n, self.config.features)) < given_f
        roots = self.parent_f < 0
        fires_nf[:, roots] &= on_ng[:, self._switch_f[roots]]
        fires_nf[:, ~roots] &= fires_nf[:, self.parent_f[~roots]]
        strength_nf = rng.uniform(0.5, 1.5, fires_nf.shape).astype(np.float32) * fires_nf
        x_nd = strength_nf @ self.direction_fd
        x_nd += (self.config.noise / np.sqrt(self.config.width)) * rng.standard_normal(x_nd.shape, dtype=np.float32)
        return x_nd, strength_nf

    def _parents(self) -> Ints:
        """Parents are spread over the more frequent half; the children are the last features."""
        families, children = self.config.families, self.config.children
        parent_f = np.full(self.config.features, -1, np.int64)
        if families:
            roots = self.config.features - families * children
            parents = np.linspace(0, roots // 2, families, endpoint=False).astype(np.int64)
            parent_f[roots:] = np.repeat(parents, children)
        return parent_f

    def _shares(self) -> Floats:
        roots = np.flatnonzero(self.parent_f < 0)
        share_f = np.zeros(self.config.features)
        share_f[roots] = (1.0 + np.arange(len(roots))) ** -self.config.power
        children = self.parent_f >= 0
        share_f[children] = self.config.child_share * share_f[self.parent_f[children]]
        share_f *= self.config.active / share_f.sum()
        if share_f.max() > _MOST_OFTEN * self.config.group_on:
            raise FeaturewatchError(
                f"a world whose most frequent feature fires in {share_f.max():.0%} of the rows",
                f"with groups that are on in {self.config.group_on:.0%} of them it is at most three quarters of that",
                "lower active or power, or raise features or group-on",
            )
        return share_f.astype(np.float32)
