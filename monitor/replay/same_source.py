"""Whether a detector's token scores were recorded, under its own name or another's."""

from __future__ import annotations

import json
from collections.abc import Mapping

from monitor.policy import Phase, Policy
from monitor.policy.request_match import judges
from monitor.policy.schema.detector import Detector
from monitor.replay.recorded import Recorded

#: SHA-256 of what a detector is computed from, by (kind, name) as in a record's provenance; None: it cannot be read.
Ingredients = Mapping[tuple[str, str], str | None]


def source_key(detector: Detector) -> str:
    """Equal for detectors that give every token the same score; words for the reader do not count."""
    source = detector.source.model_dump(by_alias=True, exclude_none=True)
    for latent in source.get("saeLatents", {}).get("latents", ()):
        if "index" in latent:
            latent.pop("label", None)
    return json.dumps(source, sort_keys=True)


def recorded_column(policy: Policy, detector: Detector, recorded: Recorded, made_of: Ingredients) -> tuple[int, str]:
    """The score column that has this detector's token scores, or -1 and why there is none.

    `made_of` is not looked at where the very same policy was recorded.
    """
    own_name = f"{policy.name}/{detector.id}"
    candidates = [
        (f"{was.name}/{one.id}", was, one)
        for was in recorded.policies.values()
        for one in was.document.spec.detectors
        if source_key(one) == source_key(detector)
    ]
    candidates.sort(key=lambda candidate: candidate[0] != own_name)
    if not candidates:
        known = {f"{was.name}/{one.id}" for was in recorded.policies.values() for one in was.document.spec.detectors}
        return -1, "its source differs from the recorded one" if own_name in known else "its scores are not recorded"
    reasons = []
    for name, was, one in candidates:
        reason = _difference((policy, detector), (was, one), recorded, made_of)
        if not reason and name in recorded.incomplete:
            reason = recorded.incomplete[name]
        if not reason:
            return recorded.columns.index(name), ""
        reasons.append(reason)
    return -1, reasons[0]


def _difference(
    wanted: tuple[Policy, Detector], found: tuple[Policy, Detector], recorded: Recorded, made_of: Ingredients
) -> str:
    """Why a recorded detector of an equal source did not give the tokens the scores that are wanted."""
    (policy, detector), (was, one) = wanted, found
    if set(one.aggregate.skip) != set(detector.aggregate.skip):
        return "it skips other token classes than the recorded one, and classes are not recorded"
    more = set(policy.document.spec.match.phases) - set(was.document.spec.match.phases)
    if {int(Phase[name.upper()]) for name in more} & set(recorded.phases_p.tolist()):
        return "it judges phases that the recorded one did not"
    circumstances = recorded.circumstances
    if not judges(was, circumstances.tenant, circumstances.request_id):
        return "the recorded policy did not judge this request"
    if policy.sha256 != was.sha256:
        hashes = {(entry.kind, entry.name): entry.sha256 for entry in recorded.record.provenance}
        for key, sha256 in made_of.items():
            if sha256 is None:
                return f"{key[0]} {key[1]} cannot be read, so it cannot be compared with the recorded one"
            if hashes.get(key) != sha256:
                return f"{key[0]} {key[1]} is not the recorded one"
    return ""
