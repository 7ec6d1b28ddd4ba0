"""What reading the policies anew would change, and whether it may."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from monitor.errors import FeaturewatchError
from monitor.policy import Policy, PolicyError, Problem
from monitor.policy.yaml_fields import line_of
from monitor.sae import Catalog
from monitor.sidecar.history import token_bytes
from monitor.sidecar.policy_book import PolicyBook

RevisionTexts = Mapping[tuple[str, int], str]
"""SHA-256 of the text that was in force under a policy's name and revision."""

_REVISION: Final = "metadata.revision"


@dataclass(frozen=True)
class PolicyChange:
    """One policy before and after; None where it was not, or is no longer."""

    old: Policy | None
    new: Policy | None

    @property
    def name(self) -> str:
        policy = self.new or self.old
        return policy.name if policy is not None else ""


def read_changes(
    paths: Sequence[Path], catalog: Catalog, old: PolicyBook, known: RevisionTexts, page_bytes: int
) -> tuple[PolicyBook, list[PolicyChange]]:
    """Reads the policies anew, all or nothing; takes time, in any thread.

    Args:
        known: texts of revisions that were in force before, besides those of `old`.
        page_bytes: of the pool of histories, which is made once.

    Raises:
        PolicyError: with every problem of every file; also where a revision says other than it did.
        FeaturewatchError: a folder holds no policy or cannot be listed, or there are more detectors than have room.
    """
    new = PolicyBook.load(paths, catalog)
    changes = changes_between(old, new)
    problems = revision_problems(old, new, known)
    if problems:
        raise PolicyError(problems)
    detectors = len(new.compiled.detectors)
    if token_bytes(detectors) > page_bytes:
        raise FeaturewatchError(
            f"policies with {detectors} detectors together",
            f"a page of this sidecar's history has {page_bytes} bytes, which is less than one token needs",
            "restart the sidecar: it chooses the size at its start",
        )
    return new, changes


def changes_between(old: PolicyBook, new: PolicyBook) -> list[PolicyChange]:
    """What comes, what changes, what goes, in this order; by their order in the files."""
    before = {policy.name: policy for policy in old.policies}
    after = {policy.name: policy for policy in new.policies}
    there = [PolicyChange(before.get(name), policy) for name, policy in after.items()]
    changed = [one for one in there if one.old is None or one.new is None or one.old.sha256 != one.new.sha256]
    gone = [PolicyChange(policy, None) for name, policy in before.items() if name not in after]
    return [*sorted(changed, key=lambda one: one.old is not None), *gone]


def revision_problems(old: PolicyBook, new: PolicyBook, known: RevisionTexts) -> list[Problem]:
    """Audits name a policy by name and revision, so that a revision must mean one text for good.

    A higher revision may come at any time. A lower one may come back with the very text that it had: to go back in an
    emergency must be possible.
    """
    before = {policy.name: policy for policy in old.policies}
    texts = {**known, **{(policy.name, policy.revision): policy.sha256 for policy in old.policies}}
    problems = []
    for policy in new.policies:
        earlier, text = before.get(policy.name), texts.get((policy.name, policy.revision))
        if text is not None and text != policy.sha256:
            rule = f"revision {policy.revision} was in force with another text (sha256 {text[:12]})"
            problems.append(_problem(policy, rule, "raise it with every change"))
        elif text is None and earlier is not None and policy.revision < earlier.revision:
            rule = f"revision {earlier.revision} is in force, and {policy.revision} never was"
            problems.append(_problem(policy, rule, "raise it; to go back, restore the text of an earlier revision"))
        elif earlier is not None and earlier.sha256 == policy.sha256:
            problems += [_probe_problem(policy, file) for file in _probes(policy) if _other(old, new, file)]
    return problems


def _other(old: PolicyBook, new: PolicyBook, file: str) -> bool:
    return old.probe_hashes.get(file) != new.probe_hashes.get(file)


def _probes(policy: Policy) -> list[str]:
    sources = [detector.source for detector in policy.document.spec.detectors]
    probes = [source.dense_probe or source.sae_probe for source in sources]
    return list(dict.fromkeys(probe.file for probe in probes if probe is not None))


def _probe_problem(policy: Policy, file: str) -> Problem:
    rule = f"probe file {file} has other content than when revision {policy.revision} came into force"
    return _problem(policy, rule, "raise it, or restore the file")


def _problem(policy: Policy, rule: str, remedy: str) -> Problem:
    return Problem(policy.file, line_of(policy.lines, _REVISION), _REVISION, str(policy.revision), rule, remedy)
