"""What `featurewatch policy diff` compares: a policy file, a folder of them, or what a sidecar has loaded."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from monitor.cli.policy.remote import SECONDS
from monitor.errors import FeaturewatchError
from monitor.policy import Policy, PolicyError, parse_policy
from monitor.policy.nearest import nearest
from monitor.sidecar.policy_files import policy_files, read_policies, read_policy

if TYPE_CHECKING:
    from monitor.v1.policies_pb2_grpc import PolicyServiceStub

LIVE: Final = "live"

Service = Callable[[], AbstractContextManager["PolicyServiceStub"]]
Pair = tuple[Policy | None, Policy | None]


@dataclass(frozen=True)
class Side:
    """One of the two that are compared.

    Attributes:
        shown: as it was given.
        policies: by name.
        whole: whether it is a folder, or all that a sidecar has; otherwise it is one policy.
    """

    shown: str
    policies: Mapping[str, Policy]
    whole: bool


def read_sides(old: str, new: str, service: Service) -> tuple[Side, Side]:
    """Both sides as they were given: paths, or `live`, of which a file's policy alone is asked for.

    Raises:
        PolicyError: with every problem of every file.
        FeaturewatchError: both are `live`, a folder holds no policy, or the sidecar does not have the file's.
    """
    if old == new == LIVE:
        raise FeaturewatchError("live and live", "they are the same policies", "name a file or a folder")
    read = {given: _read(given) for given in (old, new) if given != LIVE}
    if LIVE in (old, new):
        (other,) = read.values()
        read[LIVE] = Side(LIVE, _by_name(_live(None if other.whole else [*other.policies], service)), other.whole)
    return read[old], read[new]


def pairs(old: Side, new: Side) -> list[Pair]:
    """What is compared with what: two files whatever their names, else policies of the same name, in order of names;
    None where one of two folders has none.

    Raises:
        FeaturewatchError: one is a file, and the other has no policy of its name.
    """
    if not old.whole and not new.whole:
        (before,), (after,) = old.policies.values(), new.policies.values()
        return [(before, after)]
    names = sorted(old.policies.keys() | new.policies.keys())
    for one, folder in ((old, new), (new, old)):
        if not one.whole:
            names = [*one.policies]
            _must_have(folder, names[0], one)
    return [(old.policies.get(name), new.policies.get(name)) for name in names]


def _read(given: str) -> Side:
    path = Path(given)
    if not path.is_dir():
        return Side(given, _by_name([read_policy(path)]), whole=False)
    policies, problems = read_policies(policy_files([path]))
    if problems:
        raise PolicyError(problems)
    return Side(given, _by_name(policies), whole=True)


def _live(names: Iterable[str] | None, service: Service) -> Iterator[Policy]:
    """These, or all, as the sidecar has loaded them."""
    from monitor.v1.policies_pb2 import GetPolicyRequest, ListPoliciesRequest

    with service() as stub:
        if names is None:
            listed = stub.ListPolicies(ListPoliciesRequest(), timeout=SECONDS)
            names = [policy.name for policy in listed.policies]
        for name in names:
            answer = stub.GetPolicy(GetPolicyRequest(name=name), timeout=SECONDS)
            yield parse_policy(answer.source, f"{LIVE} {answer.status.file}")


def _by_name(policies: Iterable[Policy]) -> dict[str, Policy]:
    return {policy.name: policy for policy in policies}


def _must_have(folder: Side, name: str, one: Side) -> None:
    if name not in folder.policies:
        near = nearest(name, folder.policies)
        hint = f", perhaps that of {near!r}" if near else ""
        raise FeaturewatchError(
            f"policy {name!r} of {one.shown}",
            f"{folder.shown} has {', '.join(folder.policies)}",
            f"name the file to compare it with{hint}",
        )
