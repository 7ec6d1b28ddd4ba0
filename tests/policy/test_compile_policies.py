"""Policies become flat tables: directions, detectors, rules."""

from __future__ import annotations

import pytest
from policy_samples import GOOD, FakeSources

from monitor.policy import (
    DirectionRef,
    Mode,
    Phase,
    PolicyEngine,
    PolicyError,
    Severity,
    TokenClass,
    compile_policies,
    parse_policy,
)

SAE = "tiny/resid_post.14"
DENSE = "weights/harm.dense.safetensors"


def test_directions_are_merged_and_sorted_by_layer() -> None:
    compiled = compile_policies([parse_policy(GOOD)], FakeSources())
    assert compiled.directions == (
        DirectionRef("resid_post.9", "dense", DENSE, -1, ""),
        DirectionRef("resid_post.14", "latent", SAE, 2, ""),
        DirectionRef("resid_post.14", "latent", SAE, 5, ""),
        DirectionRef("resid_post.14", "latent", SAE, 7, "weapons"),
    )
    assert [direction.name for direction in compiled.directions] == ["harm.dense", f"{SAE}/2", f"{SAE}/5", f"{SAE}/7"]


def test_detectors_point_into_the_directions() -> None:
    latents, sae_probe, dense = compile_policies([parse_policy(GOOD)], FakeSources()).detectors
    assert (latents.columns, latents.weights, latents.bias) == ((3, 1), (1.5, 1.0), 0.0)
    assert (sae_probe.columns, sae_probe.weights, sae_probe.bias) == ((3, 2), (0.5, -1.0), 0.25)
    assert (dense.columns, dense.weights, dense.bias) == ((0,), (1.0,), 0.0)
    assert (latents.source, sae_probe.source, dense.source) == ("saeLatents", "saeProbe", "denseProbe")
    assert (latents.warn, latents.fire, latents.clear) == (4.1, 7.3, 5.0)
    assert (sae_probe.warn, sae_probe.fire, sae_probe.clear) == (2.0, 2.0, 2.0)
    assert (latents.aggregate, latents.half_life, latents.then_max, latents.min_tokens) == ("ema", 8.0, True, 4)
    assert (sae_probe.aggregate, sae_probe.window, sae_probe.then_max) == ("rolling_mean", 16, False)
    assert dense.skip == (TokenClass.BOS, TokenClass.SPECIAL, TokenClass.TEMPLATE)
    assert dense.phases == (Phase.PROMPT, Phase.RESPONSE)
    assert dense.name == "harm/dense"


def test_rules_point_at_the_detectors_of_their_own_policy() -> None:
    second = parse_policy(GOOD.replace("name: harm,", "name: harm-2,").replace("revision: 3", "revision: 4"))
    compiled = compile_policies([parse_policy(GOOD), second], FakeSources())
    assert len(compiled.directions) == 4, "both policies read the same directions"
    rule = compiled.rules[2]
    assert (rule.policy, rule.revision, rule.id, rule.name) == ("harm-2", 4, "HARM-001", "harm-2/HARM-001")
    assert (rule.severity, rule.hold, rule.actions) == (Severity.HIGH, 2, ("alert",))
    assert [compiled.detectors[d].name for d in rule.detectors] == [
        "harm-2/dense",
        "harm-2/latents",
        "harm-2/sae_probe",
    ]
    assert rule.program == (4 * 5 + 3, 4 * 3 + 3, 4 * 4 + 2, -1, -2)
    assert compiled.policy("harm-2") is second
    with pytest.raises(KeyError):
        compiled.policy("harm-3")


def test_policies_in_mode_off_take_no_part() -> None:
    off = parse_policy(GOOD.replace("mode: alert", "mode: off"))
    assert off.mode is Mode.OFF
    compiled = compile_policies([off], FakeSources(dense={}))
    assert (compiled.policies, compiled.directions, compiled.rules) == ((), (), ())


def test_refuses_what_check_refuses_and_two_policies_of_one_name() -> None:
    with pytest.raises(PolicyError, match="there is no such thing"):
        compile_policies([parse_policy(GOOD)], FakeSources(dense={}))
    with pytest.raises(PolicyError) as caught:
        compile_policies([parse_policy(GOOD, "a.yaml"), parse_policy(GOOD, "b.yaml")], FakeSources())
    (problem,) = caught.value.problems
    assert (problem.file, problem.field, problem.rule) == (
        "b.yaml",
        "metadata.name",
        "a.yaml has a policy of this name",
    )


def test_the_engine_takes_what_is_compiled() -> None:
    engine = PolicyEngine(compile_policies([parse_policy(GOOD)], FakeSources()))
    assert [part[0].name for part in engine.contributions(1, [0, 0, 2, 4])] == [f"{SAE}/7", f"{SAE}/5"]
