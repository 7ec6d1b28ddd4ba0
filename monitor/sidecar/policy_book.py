"""The policies of one edition, read and found good together."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from monitor.errors import FeaturewatchError
from monitor.policy import Mode, Policy, PolicyError, PolicySet, check_policy, compile_policies
from monitor.sae import Catalog
from monitor.sidecar.policy_files import policy_files, read_policies
from monitor.sidecar.provenance import provenance_of, sae_hashes
from monitor.sidecar.sources import CatalogSources
from monitor.sidecar.sources_search import SearchSources


@dataclass(frozen=True)
class PolicyBook:
    """Good policies and what they are compiled from; all of it is in memory, whatever becomes of the files.

    Attributes:
        policies: all that were given, those in mode off included.
        sources: where their SAEs and probes are looked up.
        compiled: all of them together, those in mode off included: they can be switched on.
        probe_hashes: SHA-256 of the probe files that they name.
    """

    policies: tuple[Policy, ...]
    sources: SearchSources
    compiled: PolicySet
    probe_hashes: Mapping[str, str]

    @classmethod
    def load(cls, paths: Sequence[Path], catalog: Catalog) -> PolicyBook:
        """Reads files and folders of policy files.

        Raises:
            PolicyError: with every problem of every file.
            FeaturewatchError: a folder holds no policy.
        """
        files = policy_files(paths)
        policies, problems = read_policies(files)
        for policy in policies:
            problems += check_policy(policy, CatalogSources(catalog, Path(policy.file).parent))
        if problems:
            raise PolicyError(problems)
        sources = SearchSources(catalog, [file.parent for file in files])
        on = [replace(policy, mode=max(policy.mode, Mode.SHADOW)) for policy in policies]
        compiled = compile_policies(on, sources)
        probes = {entry.name: entry.sha256 for entry in provenance_of(compiled, sources) if entry.kind == "probe"}
        return cls(tuple(policies), sources, compiled, probes)

    @property
    def sae_hashes(self) -> dict[str, str]:
        """SHA-256 of the weights of each SAE that takes part, by id."""
        return sae_hashes(self.compiled, self.sources)

    def policy(self, name: str) -> Policy:
        """Raises FeaturewatchError with the known names."""
        for policy in self.policies:
            if policy.name == name:
                return policy
        known = [policy.name for policy in self.policies]
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
        remedy = f"did you mean {near[0]!r}" if near else "choose one of them"
        raise FeaturewatchError(f"policy {name!r}", f"this sidecar has {', '.join(known)}", remedy)
