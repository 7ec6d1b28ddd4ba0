"""The policy to calibrate with what it names, read and checked once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from monitor.errors import FeaturewatchError
from monitor.policy import Mode, Policy, PolicyError, PolicySet, check_policy, compile_policies, matches_model
from monitor.policy.schema.metadata import FittedOn
from monitor.sae import Catalog
from monitor.sidecar.policy_files import read_policy
from monitor.sidecar.provenance import sae_hashes
from monitor.sidecar.sources_search import SearchSources

_FITTED_ON = "spec.fittedOn"


@dataclass(frozen=True)
class Subject:
    """Attributes:

    policy: as its file has it.
    sources: where its SAEs and probes are.
    compiled: what it reads, whatever it was fitted on and even if it is off.
    mismatches: how SAEs and hook points differ from `fittedOn`, one line each.
    """

    policy: Policy
    sources: SearchSources
    compiled: PolicySet
    mismatches: tuple[str, ...]

    @property
    def hook_points(self) -> list[str]:
        return list(dict.fromkeys(direction.hook_point for direction in self.compiled.directions))

    def stated_of_sources(self) -> dict[str, str]:
        """Keys of `fittedOn` that the sources decide: hook point and SAE where there is one of them."""
        hashes, hooks = set(sae_hashes(self.compiled, self.sources).values()), self.hook_points
        stated = {"hook": hooks[0]} if len(hooks) == 1 else {}
        return stated | ({"sae": f"sha256:{hashes.pop()}"} if len(hashes) == 1 else {})


def read_subject(file: Path, zoo: Sequence[Path]) -> Subject:
    """Reads a policy file. What it was fitted on may differ: that is what a calibration sets, and a check tells.

    Raises:
        PolicyError: with everything else that is wrong with the policy.
    """
    policy = read_policy(file)
    sources = SearchSources(Catalog(zoo), [file.parent])
    found = check_policy(policy, sources)
    if wrong := [problem for problem in found if not problem.field.startswith(_FITTED_ON)]:
        raise PolicyError(wrong)
    mismatches = tuple(f"{problem.field.rpartition('.')[2]}: {problem.value}: {problem.rule}" for problem in found)
    return Subject(policy, sources, compile_policies([_anywhere(policy)], sources), mismatches)


def require_match(policy: Policy, model: str) -> None:
    """Raises FeaturewatchError when the policy is not for this model: it would judge nothing there."""
    if not matches_model(policy, model):
        raise FeaturewatchError(
            f"policy {policy.name} with model {model}",
            f"its match.models is {', '.join(policy.document.spec.match.models)}",
            "calibrate on a model that it is for, or change match.models",
        )


def _anywhere(policy: Policy) -> Policy:
    spec = policy.document.spec.model_copy(update={"fitted_on": FittedOn()})
    return replace(policy, mode=Mode.SHADOW, document=policy.document.model_copy(update={"spec": spec}))
