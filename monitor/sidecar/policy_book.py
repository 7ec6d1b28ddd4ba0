"""The policies this sidecar was started with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from monitor.errors import FeaturewatchError
from monitor.policy import Policy, PolicyError, PolicySet, Problem, check_policy, compile_policies, parse_policy
from monitor.sae import Catalog
from monitor.sidecar.sources import CatalogSources
from monitor.sidecar.sources_search import SearchSources

_SUFFIXES = (".yaml", ".yml")


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
            FeaturewatchError: a path is missing or holds no policy.
        """
        files = policy_files(paths)
        policies: list[Policy] = []
        problems: list[Problem] = []
        for file in files:
            try:
                policy = parse_policy(file.read_text(encoding="utf-8"), str(file))
            except PolicyError as error:
                problems += error.problems
                continue
            except (OSError, UnicodeDecodeError) as error:
                problems.append(Problem(str(file), 1, "", str(error), "it must be readable text", "fix the file"))
                continue
            problems += check_policy(policy, CatalogSources(catalog, file.parent))
            problems += [_same_name(policy, other) for other in policies if other.name == policy.name]
            policies.append(policy)
        if problems:
            raise PolicyError(problems)
        sources = SearchSources(catalog, [file.parent for file in files])
        return cls(tuple(policies), sources, compile_policies(policies, sources))

    @property
    def sae_hashes(self) -> dict[str, str]:
        """SHA-256 of the weights of each SAE that takes part, by id."""
        saes = dict.fromkeys(ref.source for ref in self.compiled.directions if ref.kind == "latent")
        return {sae: self.sources.sae(sae).sha256 for sae in saes}

    def policy(self, name: str) -> Policy | None:
        return next((policy for policy in self.policies if policy.name == name), None)


def policy_files(paths: Sequence[Path]) -> list[Path]:
    """Files as given; of folders their policy files, sorted by name, without `*_test.yaml`."""
    files: list[Path] = []
    for path in paths:
        if path.is_dir():
            found = sorted(
                file for file in path.iterdir() if file.suffix in _SUFFIXES and not file.stem.endswith("_test")
            )
        else:
            found = [path] if path.is_file() else []
        if not found:
            raise FeaturewatchError(
                f"policies {str(path)!r}",
                "it holds no policy file (*.yaml)" if path.is_dir() else "there is no such file or folder",
                "give a policy file, or a folder of them, with --policies",
            )
        files += found
    return list(dict.fromkeys(files))


def _same_name(policy: Policy, other: Policy) -> Problem:
    return Problem(
        policy.file,
        policy.lines.get("metadata.name", 1),
        "metadata.name",
        policy.name,
        f"{other.file} has a policy of the same name",
        "give each policy a name of its own",
    )
