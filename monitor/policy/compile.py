"""From policies to the flat tables that engine and watch plan are made from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from monitor.policy.check import check_policy
from monitor.policy.compiled import CompiledDetector, CompiledRule, DirectionRef, PolicySet
from monitor.policy.hook_names import layer_of
from monitor.policy.policy import Policy
from monitor.policy.problem import PolicyError, Problem
from monitor.policy.schema.detector import Detector, Latent, SaeLatents
from monitor.policy.sources import Sources
from monitor.policy.vocabulary import Mode, Phase, Severity, TokenClass
from monitor.policy.when import parse_condition
from monitor.policy.yaml_fields import line_of

# In place of a hook point where scores are given.
_SCORES = "scores"


def compile_policies(policies: Sequence[Policy], sources: Sources) -> PolicySet:
    """Resolves the policies against their sources. Policies in mode off are left out.

    Raises:
        PolicyError: a source is unknown or does not fit, or two policies have one name.
    """
    active = [policy for policy in policies if policy.mode is not Mode.OFF]
    problems = [problem for policy in active for problem in check_policy(policy, sources)] + same_names(active)
    if problems:
        raise PolicyError(problems)
    parts = [
        (policy, detector, _parts(detector, sources))
        for policy in active
        for detector in policy.document.spec.detectors
    ]
    directions = _merged([direction for _, _, detector_parts in parts for direction in detector_parts.directions])
    column_of = {_key(direction): column for column, direction in enumerate(directions)}
    detectors = tuple(_detector(policy, detector, found, column_of) for policy, detector, found in parts)
    index_of = {(detector.policy, detector.id): index for index, detector in enumerate(detectors)}
    rules = tuple(rule for policy in active for rule in _rules(policy, index_of))
    return PolicySet(tuple(active), directions, detectors, rules)


def compile_scores(policies: Sequence[Policy]) -> PolicySet:
    """The same detectors and rules over token scores instead of activations: column d holds the scores of detector d.

    For scores that are already there (recorded, or written in a test): no source is looked up. A token whose score is
    NaN is not judged.

    Raises:
        PolicyError: two policies have one name.
    """
    active = [policy for policy in policies if policy.mode is not Mode.OFF]
    if problems := same_names(active):
        raise PolicyError(problems)
    pairs = [(policy, detector) for policy in active for detector in policy.document.spec.detectors]
    columns = [DirectionRef(_SCORES, "dense", f"{policy.name}/{detector.id}", -1, "") for policy, detector in pairs]
    detectors = []
    for column, (policy, detector) in enumerate(pairs):
        parts = _Parts((columns[column],), (1.0,), 0.0)
        compiled = _detector(policy, detector, parts, {_key(columns[column]): column})
        detectors.append(replace(compiled, combine="weighted_sum", bounds=(), least=0))
    index_of = {(detector.policy, detector.id): index for index, detector in enumerate(detectors)}
    rules = tuple(rule for policy in active for rule in _rules(policy, index_of))
    return PolicySet(tuple(active), tuple(columns), tuple(detectors), rules)


def same_names(policies: Sequence[Policy]) -> list[Problem]:
    """A problem of each policy whose name an earlier one has: alerts and counters could not be told apart."""
    problems, files = [], dict[str, str]()
    for policy in policies:
        if policy.name in files:
            line = line_of(policy.lines, "metadata.name")
            rule = f"{files[policy.name]} has a policy of this name"
            problems.append(Problem(policy.file, line, "metadata.name", policy.name, rule, "choose another name"))
        files.setdefault(policy.name, policy.file)
    return problems


@dataclass(frozen=True)
class _Parts:
    """A detector's directions with their weights."""

    directions: tuple[DirectionRef, ...]
    weights: tuple[float, ...]
    bias: float


def _parts(detector: Detector, sources: Sources) -> _Parts:
    source = detector.source
    if source.sae_latents is not None:
        sae, chosen = source.sae_latents.sae, source.sae_latents.latents
        hook = sources.sae(sae).hook_point
        return _Parts(
            tuple(
                DirectionRef(hook, "latent", sae, _index(latent, sae, sources), latent.label or "") for latent in chosen
            ),
            tuple(latent.weight for latent in chosen),
            0.0,
        )
    if source.sae_probe is not None:
        probe = sources.sae_probe(source.sae_probe.file)
        hook = sources.sae(probe.sae).hook_point
        refs = tuple(DirectionRef(hook, "latent", probe.sae, index, "") for index in probe.latents)
        return _Parts(refs, probe.weights, probe.bias)
    if source.dense_probe is None:
        raise AssertionError("the schema lets exactly one source pass")
    file = source.dense_probe.file
    return _Parts((DirectionRef(sources.dense_probe(file).hook_point, "dense", file, -1, ""),), (1.0,), 0.0)


def _index(latent: Latent, sae: str, sources: Sources) -> int:
    return sources.labelled_latent(sae, latent.label or "") if latent.index is None else latent.index


def _detector(
    policy: Policy, detector: Detector, parts: _Parts, column_of: dict[tuple[str, str, str, int], int]
) -> CompiledDetector:
    aggregate, threshold, source = detector.aggregate, detector.threshold, detector.source
    return CompiledDetector(
        policy=policy.name,
        id=detector.id,
        source="saeLatents" if source.sae_latents else "saeProbe" if source.sae_probe else "denseProbe",
        columns=tuple(column_of[_key(direction)] for direction in parts.directions),
        weights=parts.weights,
        bias=parts.bias,
        combine=source.sae_latents.combine if source.sae_latents else "weighted_sum",
        aggregate=aggregate.kind,
        half_life=aggregate.half_life or 0.0,
        window=aggregate.window or 0,
        then_max=aggregate.then == "max",
        min_tokens=aggregate.min_tokens,
        skip=tuple(TokenClass[name.upper()] for name in aggregate.skip),
        phases=tuple(Phase[name.upper()] for name in policy.document.spec.match.phases),
        warn=threshold.fire if threshold.warn is None else threshold.warn,
        fire=threshold.fire,
        clear=threshold.fire if threshold.clear is None else threshold.clear,
        **_counting(source.sae_latents),
        over=aggregate.over or 0.0,
        drift=aggregate.drift or 0.0,
    )


def _counting(latents: SaeLatents | None) -> dict[str, Any]:
    """Bounds of the latents and how many of them must be over them, where they are counted."""
    if latents is None or latents.combine in ("weighted_sum", "max"):
        return {}
    least = {"any": 1, "all": len(latents.latents), "k_of_n": latents.k or 0}[latents.combine]
    return {"bounds": tuple(latent.over for latent in latents.latents), "least": least}


def _rules(policy: Policy, index_of: dict[tuple[str, str], int]) -> list[CompiledRule]:
    rules = []
    for rule in policy.document.spec.rules:
        condition = parse_condition(rule.when)
        index_here = {name: index_of[policy.name, name] for name in condition.detectors}
        rules.append(
            CompiledRule(
                policy=policy.name,
                revision=policy.revision,
                id=rule.id,
                severity=Severity[rule.severity.upper()],
                hold=rule.hold_tokens,
                detectors=tuple(index_here.values()),
                when=rule.when,
                program=condition.program(index_here),
                actions=rule.actions,
            )
        )
    return rules


def _key(direction: DirectionRef) -> tuple[str, str, str, int]:
    return direction.hook_point, direction.kind, direction.source, direction.index


def _merged(directions: Sequence[DirectionRef]) -> tuple[DirectionRef, ...]:
    """Each direction once, with the first label that someone gave it, by layer, kind, source and index."""
    merged: dict[tuple[str, str, str, int], DirectionRef] = {}
    for direction in directions:
        known = merged.setdefault(_key(direction), direction)
        if not known.label and direction.label:
            merged[_key(direction)] = replace(known, label=direction.label)
    return tuple(sorted(merged.values(), key=lambda ref: (layer_of(ref.hook_point), ref.kind, ref.source, ref.index)))
