"""The policies this sidecar was started with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from monitor.errors import FeaturewatchError
from monitor.policy import Policy, PolicyError, PolicySet, check_policy, compile_policies
from monitor.sae import Catalog
from monitor.sidecar.policy_files import policy_files, read_policies
from monitor.sidecar.sources import CatalogSources
from monitor.sidecar.sources_search import SearchSources


@dataclass(frozen=True)
class PolicyBook:
    """Good policies and what they are compiled from.

    Attributes:
        policies: all that were given, those in mode off included.
        sources: where their SAEs and probes are looked up.
        compiled: all that are not off, together.
    """

    policies: tuple[Policy, ...]
    sources: SearchSources
    compiled: PolicySet

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
        return cls(tuple(policies), sources, compile_policies(policies, sources))

    @property
    def sae_hashes(self) -> dict[str, str]:
        """SHA-256 of the weights of each SAE that takes part, by id."""
        saes = dict.fromkeys(ref.source for ref in self.compiled.directions if ref.kind == "latent")
        return {sae: self.sources.sae(sae).sha256 for sae in saes}

    def policy(self, name: str) -> Policy:
        """Raises FeaturewatchError with the known names."""
        for policy in self.policies:
            if policy.name == name:
                return policy
        known = ", ".join(policy.name for policy in self.policies)
        raise FeaturewatchError(f"policy {name!r}", f"this sidecar has {known}", "choose one of them")
