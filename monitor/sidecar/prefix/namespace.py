"""Which taps may share detector state of token prefixes: those that judge alike."""

from __future__ import annotations

import hashlib

from monitor.policy import Phase, PolicySet, TokenClasses
from monitor.v1.tap_pb2 import WatchPlan


def prefix_namespace(policies: PolicySet, plan: WatchPlan, classes: TokenClasses) -> bytes:
    """Digest of all that decides how a token is judged besides its activations' model: policy texts, the tables that
    were compiled from them with every threshold, the directions' weights, and the tokenizer's token classes."""
    digest = hashlib.sha256()
    kinds = classes.kinds
    parts = [
        *(policy.sha256.encode() for policy in policies.policies),
        repr((policies.directions, policies.detectors, policies.rules)).encode(),
        *(hook.SerializeToString(deterministic=True) for hook in plan.hooks),
        kinds.kinds_v.tobytes(),
        kinds.pieces_v.tobytes(),
        kinds.walk_pb.tobytes(),
    ]
    for part in parts:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.digest()


def tells_phases_apart(policies: PolicySet) -> bool:
    """Whether the same tokens are judged otherwise as prompt than as response."""
    return any((Phase.PROMPT in one.phases) != (Phase.RESPONSE in one.phases) for one in policies.detectors)
