"""What takes part in verdicts, with hashes."""

from __future__ import annotations

from monitor.policy import PolicySet, Sources
from monitor.v1.generations_pb2 import Provenance


def sae_hashes(policies: PolicySet, sources: Sources) -> dict[str, str]:
    """SHA-256 of the weights of each SAE that takes part, by id."""
    saes = dict.fromkeys(direction.source for direction in policies.directions if direction.kind == "latent")
    return {sae: sources.sae(sae).sha256 for sae in saes}


def provenance_of(policies: PolicySet, sources: Sources) -> tuple[Provenance, ...]:
    """Policies with their texts, SAEs and probes of a policy set, each once, in this order."""
    entries = [
        Provenance(kind="policy", name=p.name, revision=str(p.revision), sha256=p.sha256, text=p.source)
        for p in policies.policies
    ]
    entries += [
        Provenance(kind="sae", name=sae, sha256=sha256) for sae, sha256 in sae_hashes(policies, sources).items()
    ]
    probes: dict[str, str] = {}
    for policy in policies.policies:
        for detector in policy.document.spec.detectors:
            if detector.source.dense_probe is not None:
                file = detector.source.dense_probe.file
                probes[file] = sources.dense_probe(file).sha256
            if detector.source.sae_probe is not None:
                file = detector.source.sae_probe.file
                probes[file] = sources.sae_probe(file).sha256
    return (*entries, *(Provenance(kind="probe", name=file, sha256=sha256) for file, sha256 in probes.items()))
