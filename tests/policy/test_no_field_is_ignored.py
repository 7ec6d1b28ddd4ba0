"""Every field that the engine judges by changes what is compiled."""

from __future__ import annotations

import pytest
from policy_samples import GOOD, FakeSources
from policy_seeds import COUNTING, SEEDS
from schema_paths import schema_paths

from monitor.policy import compile_policies, parse_policy
from monitor.policy.json_schema import json_schema

#: Field, and a change of its value in a seed.
CHANGES = [
    ("id", GOOD, "id: dense\n", "id: dens\n"),
    ("source.saeLatents.sae", COUNTING, "resid_post.9, latents: [{index: 5", "resid_post.14, latents: [{index: 5"),
    ("source.saeLatents.latents[].index", GOOD, "{index: 2}", "{index: 3}"),
    ("source.saeLatents.latents[].weight", GOOD, "weight: 1.5", "weight: 1.25"),
    ("source.saeLatents.latents[].label", COUNTING, "label: lies", "label: weapons"),
    ("source.saeLatents.latents[].over", COUNTING, "weight: -1, over: -2e-1", "weight: -1, over: -0.1"),
    ("source.saeLatents.combine", COUNTING, "combine: any", "combine: all"),
    ("source.saeLatents.k", COUNTING, "k: 2", "k: 3"),
    ("source.saeProbe.file", GOOD, "{saeProbe: {file: weights/harm.sae.", "{saeProbe: {file: weights/more.sae."),
    (
        "source.denseProbe.file",
        GOOD,
        "{denseProbe: {file: weights/harm.dense.",
        "{denseProbe: {file: weights/more.dense.",
    ),
    ("aggregate.kind", GOOD, "{kind: max,", "{kind: mean,"),
    ("aggregate.halfLife", GOOD, "halfLife: 8", "halfLife: 9"),
    ("aggregate.window", GOOD, "window: 16", "window: 17"),
    ("aggregate.over", COUNTING, "window: 8, over: 0.5", "window: 8, over: 0.75"),
    ("aggregate.drift", COUNTING, "drift: 0.1", "drift: 0.2"),
    ("aggregate.then", GOOD, "then: max, ", ""),
    ("aggregate.minTokens", GOOD, "minTokens: 4", "minTokens: 5"),
    ("aggregate.skip", GOOD, "template, system]", "template]"),
    ("threshold.fire", GOOD, "fire: 7.3", "fire: 7.4"),
    ("threshold.warn", GOOD, "warn: 4.1", "warn: 4.2"),
    ("threshold.clear", GOOD, "clear: 5.0", "clear: 5.1"),
    ("spec.match.phases", GOOD, "phases: [prompt, response]", "phases: [prompt]"),
    ("spec.rules[].id", GOOD, "id: HARM-002", "id: HARM-003"),
    ("spec.rules[].when", GOOD, "when: not latents.clear", "when: not latents.warn"),
    ("spec.rules[].for", GOOD, "for: 2 tokens", "for: 3 tokens"),
    ("spec.rules[].severity", GOOD, "severity: low", "severity: medium"),
]
#: Fields that only hold others.
BLOCKS = {
    *("source", "source.saeLatents", "source.saeLatents.latents", "source.saeProbe", "source.denseProbe"),
    *("aggregate", "threshold"),
}


@pytest.mark.parametrize(("field", "text", "before", "after"), CHANGES, ids=[field for field, *_ in CHANGES])
def test_a_changed_field_changes_what_is_compiled(field: str, text: str, before: str, after: str) -> None:
    assert text.count(before) == 1
    assert text in SEEDS.values()
    changed = text.replace(before, after).replace("dense.fire", "dens.fire" if field == "id" else "dense.fire")
    assert compiled(text) != compiled(changed)


def test_every_field_of_a_detector_is_among_them() -> None:
    prefix = "spec.detectors[]."
    fields = {path.removeprefix(prefix) for path, _ in schema_paths(json_schema()) if path.startswith(prefix)}
    judged = {field for field in fields if not field.endswith("[]") and not field.startswith("calibration")}
    assert judged - BLOCKS == {field for field, *_ in CHANGES if not field.startswith("spec.")}


def compiled(text: str) -> object:
    sources = FakeSources()
    (probe,), (dense,) = sources.probes.values(), sources.dense.values()
    sources.probes["weights/more.sae.safetensors"] = type(probe)(probe.sae, (1,), (1.0,), 0.0, "e" * 64)
    sources.dense["weights/more.dense.safetensors"] = type(dense)("resid_post.10", 8, "f" * 64)
    policies = compile_policies([parse_policy(text)], sources)
    return policies.directions, policies.detectors, policies.rules
