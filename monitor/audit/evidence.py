"""Several captures of one generation with one dictionary become one evidence."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from monitor.v1.evidence_pb2 import Evidence


@dataclass(frozen=True)
class StoredEvidence:
    """Evidence to be added to a generation, one per dictionary."""

    generation_id: str
    evidence: tuple[Evidence, ...]


def merge_evidence(earlier: Evidence, later: Evidence) -> Evidence:
    """Tokens of both, the later where both have one; of another version of the dictionary, the later alone.

    Both count as missing what was observed and is in neither.
    """
    if earlier.sae_sha256 != later.sae_sha256:
        return later
    by_position = {token.position: token for token in (*earlier.tokens, *later.tokens)}
    observed = max(len(one.tokens) + one.missing for one in (earlier, later))
    merged = Evidence(tokens=[by_position[position] for position in sorted(by_position)])
    merged.hook_point, merged.sae, merged.sae_sha256 = later.hook_point, later.sae, later.sae_sha256
    merged.num_latents, merged.device = later.num_latents, later.device
    merged.missing = max(observed - len(by_position), 0)
    merged.reason = ", ".join(_each_once([*earlier.reason.split(", "), *later.reason.split(", ")]))
    merged.labels.update(earlier.labels)
    merged.labels.update(later.labels)
    return merged


def _each_once(words: Iterable[str]) -> list[str]:
    return [word for word in dict.fromkeys(words) if word]
