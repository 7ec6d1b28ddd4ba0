"""Which taps may share detector state of token prefixes: those that judge alike."""

from __future__ import annotations

import hashlib

from monitor.policy import Phase, PolicySet, ResponsePhases, TokenClasses
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


def tells_phases_apart(policies: PolicySet, phases: ResponsePhases) -> bool:
    """Whether the same tokens are judged otherwise as prompt than as response. What of a response is reasoning follows
    from its tokens and from where it begins."""
    others = (Phase.RESPONSE, Phase.REASONING) if phases.known else (Phase.RESPONSE,)
    return any((Phase.PROMPT in one.phases) != (other in one.phases) for one in policies.detectors for other in others)
