"""Evidence of one generation and one dictionary while its rows come in."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from monitor.policy import DirectionRef
from monitor.v1.evidence_pb2 import Evidence

# Tokens of one evidence: some 2 MB. Those of positions beyond count as missing.
MOST_TOKENS: Final = 16_384


class EvidenceDraft:
    """Adds up parts.

    Attributes:
        fault: why rows could not be encoded; empty when all could.
    """

    def __init__(self, hook_point: str, sae: str, sae_sha256: str, num_latents: int, reason: str) -> None:
        self.fault = ""
        self._evidence = Evidence(
            hook_point=hook_point, sae=sae, sae_sha256=sae_sha256, num_latents=num_latents, reason=reason
        )

    @property
    def sae(self) -> str:
        return self._evidence.sae

    @property
    def sae_sha256(self) -> str:
        return self._evidence.sae_sha256

    @property
    def full(self) -> bool:
        return len(self._evidence.tokens) >= MOST_TOKENS

    def add(self, part: Evidence) -> None:
        """Takes what the encoding process made of some rows."""
        self._evidence.device = part.device
        self._evidence.tokens.extend(part.tokens[: MOST_TOKENS - len(self._evidence.tokens)])

    def finish(self, observed_p: npt.NDArray[np.bool_], directions: Sequence[DirectionRef]) -> Evidence:
        """The evidence in the order of positions; what `observed_p` [positions] has and it has not is missing."""
        evidence = self._evidence
        evidence.tokens.sort(key=lambda token: token.position)
        missing_p = observed_p.copy()
        there = np.array([token.position for token in evidence.tokens], np.int64)
        missing_p[there[there < missing_p.size]] = False
        evidence.missing = int(np.count_nonzero(missing_p))
        latents = (index for token in evidence.tokens for index in token.latents)
        evidence.labels.update(_labels(directions, evidence.sae, latents))
        return evidence


def _labels(directions: Sequence[DirectionRef], sae: str, latents: Iterable[int]) -> dict[int, str]:
    """The labels that policies give to latents of an SAE, of those that occur."""
    occurring = set(latents)
    return {
        direction.index: direction.label
        for direction in directions
        if direction.kind == "latent" and direction.source == sae and direction.label and direction.index in occurring
    }
