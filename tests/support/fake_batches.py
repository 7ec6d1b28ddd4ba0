"""What both fakes of vLLM's model runners share: a model whose residual rows say whose they are, a sampler that accepts
drafts at random, and the truth about every row that was computed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch

from monitor.sae import HookPoint
from monitor.tap.sites import Site

WIDTH = 3
"""Request, position, token."""

NOBODY = -7.0


class Row(NamedTuple):
    """A row that counts: not padding, not a rejected draft."""

    step: int
    token: int
    draft: bool


@dataclass
class World:
    """The truth.

    Attributes:
        numbers: of the requests, in the order in which they were first scheduled.
        rows: by request and position, every time it was computed.
        step: number of the forward pass that runs, or ran last.
        rejected: draft rows that do not count.
    """

    random: np.random.Generator
    numbers: dict[str, int] = field(default_factory=dict)
    rows: dict[str, dict[int, list[Row]]] = field(default_factory=lambda: defaultdict(lambda: defaultdict(list)))
    step: int = 0
    rejected: int = 0

    def number(self, name: str) -> int:
        return self.numbers.setdefault(name, len(self.numbers) + 1)

    def sample(self, drafts: Sequence[int]) -> list[int]:
        """What the sampler makes of these drafts: those it accepts, and one token of its own. A placeholder is never
        accepted."""
        possible = next((index for index, token in enumerate(drafts) if token < 0), len(drafts))
        accepted = int(self.random.integers(0, possible + 1))
        return [*drafts[:accepted], self.token()]

    def token(self) -> int:
        return int(self.random.integers(100, 1000))

    def record(self, name: str, first: int, tokens: Sequence[int], drafts: int, rejected: int) -> None:
        """`tokens` were fed in from position `first` on; the last `drafts` are drafts, of which some are `rejected`."""
        self.rejected += rejected
        for index, token in enumerate(tokens[: len(tokens) - rejected]):
            row = Row(self.step, token, index >= len(tokens) - drafts)
            self.rows[name][first + index].append(row)


class FakeModel:
    """One hook point, whose buffer holds (request, position, token) of each row after a pass."""

    def __init__(self, max_rows: int) -> None:
        self.site = Site(
            HookPoint(1), torch.full((max_rows, WIDTH), NOBODY), torch.zeros(1, dtype=torch.int64), "a fake", None
        )
        self.fires = True

    def forward(self, rows: Sequence[tuple[float, float, float]], padded: int) -> None:
        """A pass over `rows`, padded to `padded` rows."""
        self.site.buffer_nd[:padded] = NOBODY
        self.site.buffer_nd[: len(rows)] = torch.tensor(rows)
        if self.fires:
            self.site.fired.add_(1)


def index_of(names: Sequence[str]) -> dict[str, int]:
    return {name: index for index, name in enumerate(names)}


def runner_output(names: Sequence[str], sampled: list[list[int]]) -> Any:
    """vLLM's own."""
    from vllm.v1.outputs import ModelRunnerOutput

    return ModelRunnerOutput(req_ids=list(names), req_id_to_index=index_of(names), sampled_token_ids=sampled)
