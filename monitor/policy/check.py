"""Checks a well-formed policy against the dictionaries, probes and model that it is meant for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

from monitor.errors import FeaturewatchError
from monitor.policy.hook_names import layer_of
from monitor.policy.policy import Policy
from monitor.policy.problem import Problem
from monitor.policy.schema.detector import SaeLatents, Source
from monitor.policy.sources import SaeInfo, Sources
from monitor.policy.yaml_fields import line_of, shorten

_Info = TypeVar("_Info")


def check_policy(
    policy: Policy,
    sources: Sources,
    *,
    num_layers: int | None = None,
    width: int | None = None,
    model: str = "",
) -> list[Problem]:
    """Everything the policy names must exist and fit together.

    Args:
        policy: a policy from `parse_policy`.
        sources: where SAEs and probes are looked up.
        num_layers: decoder layers of the model; None leaves them unchecked.
        width: of the model's residual stream; None leaves it unchecked.
        model: its name, for the messages.

    Returns:
        Problems in order of lines; empty for a good policy.
    """
    check = _Check(policy, sources, num_layers, width, model or "the model")
    for index, detector in enumerate(policy.document.spec.detectors):
        check.source(f"spec.detectors[{index}].source", detector.source)
    check.fitted_on()
    return sorted(check.problems, key=lambda problem: problem.line)


@dataclass
class _Check:
    policy: Policy
    sources: Sources
    num_layers: int | None
    width: int | None
    model: str
    problems: list[Problem] = field(default_factory=list)
    hooks: set[str] = field(default_factory=set)
    sae_hashes: set[str] = field(default_factory=set)
    all_known: bool = True

    def source(self, path: str, source: Source) -> None:
        if source.sae_latents is not None:
            self.sae_latents(f"{path}.saeLatents", source.sae_latents)
        elif source.sae_probe is not None:
            file = f"{path}.saeProbe.file"
            probe = self.look_up(file, self.sources.sae_probe, source.sae_probe.file)
            info = self.look_up(file, self.sources.sae, probe.sae) if probe else None
            if probe and info:
                self.placed(file, source.sae_probe.file, info.hook_point, info.width)
                self.sae_hashes.add(info.sha256)
                for latent in probe.latents:
                    self.latent(file, latent, probe.sae, info)
        elif source.dense_probe is not None:
            file = f"{path}.denseProbe.file"
            dense = self.look_up(file, self.sources.dense_probe, source.dense_probe.file)
            if dense:
                self.placed(file, source.dense_probe.file, dense.hook_point, dense.width)

    def sae_latents(self, path: str, latents: SaeLatents) -> None:
        info = self.look_up(f"{path}.sae", self.sources.sae, latents.sae)
        if info is None:
            return
        self.placed(f"{path}.sae", latents.sae, info.hook_point, info.width)
        self.sae_hashes.add(info.sha256)
        known: dict[int, int] = {}
        for number, latent in enumerate(latents.latents):
            field, index = f"{path}.latents[{number}]", latent.index
            if index is not None:
                self.latent(f"{field}.index", index, latents.sae, info)
            elif latent.label is not None:
                field = f"{field}.label"
                index = self.look_up(field, partial(self.sources.labelled_latent, latents.sae), latent.label)
            if index is not None and known.setdefault(index, number) != number:
                rule = f"it is latent {index}, which latents[{known[index]}] names already"
                self.refuse(field, latent.label or str(index), rule, "remove the repeated entry")

    def look_up(self, path: str, find: Callable[[str], _Info], name: str) -> _Info | None:
        try:
            return find(name)
        except FeaturewatchError as error:
            self.all_known = False
            self.refuse(path, error.subject, error.rule, error.remedy)
            return None

    def placed(self, path: str, name: str, hook_point: str, width: int) -> None:
        """The direction's hook point and width fit the model."""
        self.hooks.add(hook_point)
        if self.num_layers is not None and layer_of(hook_point) >= self.num_layers:
            rule = f"it reads {hook_point}, and {self.model} has layers 0 to {self.num_layers - 1}"
            self.refuse(path, name, rule, "use one that was trained on this model")
        if self.width is not None and width != self.width:
            rule = f"it has width {width}, and the residual stream of {self.model} has width {self.width}"
            self.refuse(path, name, rule, "use one that was trained on this model")

    def latent(self, path: str, index: int, sae: str, info: SaeInfo) -> None:
        if not 0 <= index < info.num_latents:
            rule = f"SAE {sae} has latents 0 to {info.num_latents - 1}"
            self.refuse(path, str(index), rule, "choose one of them")

    def fitted_on(self) -> None:
        """What the thresholds were fitted on is what the detectors use."""
        if not self.all_known:
            return
        fitted = self.policy.document.spec.fitted_on
        if fitted.hook is not None and fitted.hook not in self.hooks:
            rule = f"the detectors read {', '.join(sorted(self.hooks, key=layer_of))}"
            self.refuse("spec.fittedOn.hook", fitted.hook, rule, "correct the hook, or fit the thresholds again")
        if fitted.sae is not None and fitted.sae.removeprefix("sha256:") not in self.sae_hashes:
            used = ", ".join(f"sha256:{sha}" for sha in sorted(self.sae_hashes)) or "none"
            rule = f"the thresholds were fitted on another SAE than the detectors use ({used})"
            self.refuse("spec.fittedOn.sae", fitted.sae, rule, "fit the thresholds again with `featurewatch discover`")

    def refuse(self, path: str, value: str, rule: str, remedy: str) -> None:
        line = line_of(self.policy.lines, path)
        self.problems.append(Problem(self.policy.file, line, path, shorten(value, 160), rule, remedy))
