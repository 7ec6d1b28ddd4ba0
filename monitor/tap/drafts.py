"""Speculative decoding: which rows of a step were draft tokens that the engine did not accept.

A request's rows are the tokens that are known, then its drafts. The forward pass runs over all of them; only the
sampler behind it decides how many drafts hold. Rejected ones are always the last rows, and they are no positions: the
next step computes those positions again with other tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import torch

from monitor.tap.host_copy import HostCopier, HostCopy


class Verdict(NamedTuple):
    """What is known about a step's rows once its drafts are judged.

    Attributes:
        first_positions: [requests]; position of each request's first row.
        rejected: [requests]; how many of its last rows are no positions.
        unknown: bool [requests]; `rejected` counts all drafts, although some of them may have been accepted.
    """

    first_positions: npt.NDArray[np.int32]
    rejected: npt.NDArray[np.int32]
    unknown: npt.NDArray[np.bool_]


class Drafts(Protocol):
    """The drafts of one step."""

    def known(self) -> bool:
        """True when `read` does not have to wait."""
        ...

    def read(self) -> Verdict:
        """Waits where it must."""
        ...


class SampledDrafts:
    """Drafts whose fate is in the tokens that the runner hands to the scheduler: a request with `j` accepted drafts has
    sampled `j + 1` tokens.

    Args:
        request_ids: the batch, in row order.
        first_positions: [requests]; must not change any more.
        drafts: how many of a request's last rows are drafts; requests without any may be missing.
    """

    def __init__(
        self, request_ids: Sequence[str], first_positions: npt.NDArray[np.int32], drafts: Mapping[str, int]
    ) -> None:
        self._request_ids, self._first_positions = request_ids, first_positions
        self._drafts = np.array([drafts.get(request_id, 0) for request_id in request_ids], np.int32)
        self._verdict: Verdict | None = None

    def known(self) -> bool:
        return self._verdict is not None

    def judge(self, sampled: Mapping[str, int]) -> None:
        """Takes how many tokens each request has sampled. A request with drafts that sampled none, or that is not
        named, leaves open what became of them."""
        accepted = np.array([sampled.get(request_id, 0) - 1 for request_id in self._request_ids], np.int32)
        unknown = (self._drafts > 0) & ((accepted < 0) | (accepted > self._drafts))
        rejected = np.where(unknown, self._drafts, self._drafts - np.minimum(accepted, self._drafts))
        rejected[self._drafts == 0] = 0
        self._verdict = Verdict(self._first_positions, rejected.astype(np.int32), unknown)

    def read(self) -> Verdict:
        if self._verdict is None:
            self.judge({})
        assert self._verdict is not None
        return self._verdict


class DeviceDrafts:
    """Drafts whose fate, and so the positions of later rows too, stay on the engine's device.

    Args:
        first_positions: [requests or more] on the device; its own memory.
        drafts: [requests]; how many of a request's last rows are drafts.
        copier: brings them to the host.
    """

    def __init__(self, first_positions: torch.Tensor, drafts: npt.NDArray[np.int32], copier: HostCopier) -> None:
        self._drafts, self._copier = drafts, copier
        self._first_positions = copier.copy([first_positions])
        self._rejected: HostCopy | None = None
        self._given_up = False

    def known(self) -> bool:
        judged = self._given_up or (self._rejected is not None and self._rejected.done())
        return judged and self._first_positions.done()

    def judge(self, rejected: torch.Tensor) -> None:
        """Takes how many of each request's rows do not count: [requests or more] on the device; its own memory."""
        self._rejected = self._copier.copy([rejected])

    def give_up(self) -> None:
        """Nothing was sampled: what became of the drafts stays open."""
        self._given_up = True

    def read(self) -> Verdict:
        requests = len(self._drafts)
        (firsts,) = self._first_positions.read()
        first_positions = firsts[:requests].numpy().astype(np.int32)
        if self._rejected is None:
            return Verdict(first_positions, self._drafts, self._drafts > 0)
        (rejected,) = self._rejected.read()
        return Verdict(first_positions, rejected[:requests].numpy().astype(np.int32), np.zeros(requests, np.bool_))
