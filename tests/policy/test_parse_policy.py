"""Reading policy files: every fault is found in one run, with line, field, value, rule and remedy."""

from __future__ import annotations

import dataclasses
import hashlib

import pytest
from policy_samples import GOOD

from monitor.errors import FeaturewatchError
from monitor.policy import Mode, PolicyError, Problem, parse_policy


def problems(text: str) -> list[Problem]:
    with pytest.raises(PolicyError) as caught:
        parse_policy(text, "p.yaml")
    return list(caught.value.problems)


def changed(before: str, after: str) -> str:
    assert GOOD.count(before) == 1, before
    return GOOD.replace(before, after)


def only_problem(before: str, after: str) -> Problem:
    found = problems(changed(before, after))
    assert len(found) == 1, found
    return found[0]


def line_with(text: str) -> int:
    return 1 + next(index for index, line in enumerate(GOOD.splitlines()) if text in line)


def test_a_good_policy() -> None:
    policy = parse_policy(GOOD, "p.yaml")
    assert (policy.name, policy.revision, policy.mode, policy.file) == ("harm", 3, Mode.ALERT, "p.yaml")
    assert policy.source == GOOD
    assert policy.sha256 == hashlib.sha256(GOOD.encode()).hexdigest()
    latents, sae_probe, dense = policy.document.spec.detectors
    assert latents.source.sae_latents is not None
    assert [latent.weight for latent in latents.source.sae_latents.latents] == [1.5, 1.0]
    assert sae_probe.threshold.warn is None
    assert dense.aggregate.skip == ("bos", "special", "template")
    assert [rule.hold_tokens for rule in policy.document.spec.rules] == [2, 1]
    assert policy.lines["spec.rules[1].when"] == line_with("not latents.clear")


def test_a_detector_id_is_used_once() -> None:
    found = problems(changed("id: dense", "id: latents"))
    assert ("spec.detectors[2].id", "the id is already used in line 9") in [(p.field, p.rule) for p in found]


@pytest.mark.parametrize("choice", ["accept", "alert", "reread"])
def test_what_to_do_about_unseen_tokens(choice: str) -> None:
    policy = parse_policy(changed("record: {content: none}", f"onUnseen: {choice}"), "p.yaml")
    assert policy.document.spec.on_unseen == choice


def test_unseen_tokens_are_not_ignored_in_another_way() -> None:
    found = only_problem("record: {content: none}", "onUnseen: stop")
    assert (found.field, found.value) == ("spec.onUnseen", '"stop"')
    assert "reread" in found.rule


def test_the_rule_id_of_unseen_tokens_is_reserved() -> None:
    found = only_problem("id: HARM-002", "id: on-unseen")
    assert (found.field, found.value) == ("spec.rules[1].id", '"on-unseen"')
    assert "onUnseen" in found.rule


def test_left_out_fields_have_the_documented_defaults() -> None:
    policy = parse_policy(
        "apiVersion: monitor/v1\nkind: Policy\nmetadata: {name: a, revision: 1}\nspec:\n"
        "  detectors: [{id: d, source: {denseProbe: {file: f}}, aggregate: {kind: max}, threshold: {fire: 1}}]\n"
        "  rules: [{id: R, when: d.fire, severity: low}]\n"
    )
    spec = policy.document.spec
    assert (policy.mode, spec.match.models, spec.match.tenants) == (Mode.SHADOW, ("*",), ("*",))
    assert (spec.match.phases, spec.match.sample) == (("prompt", "reasoning", "response"), 1.0)
    assert (spec.record.content, spec.rules[0].actions, spec.rules[0].exceptions) == ("full", ("alert",), ())
    assert (spec.correlations, spec.notify, spec.on_drop, spec.on_unseen) == ((), None, None, "accept")


def test_mode_off_is_a_word_and_numbers_may_have_exponents() -> None:
    assert parse_policy(changed("mode: alert", "mode: off")).mode is Mode.OFF
    policy = parse_policy(changed("threshold: {fire: 2}", "threshold: {fire: 2e-3}"))
    assert policy.document.spec.detectors[1].threshold.fire == 0.002


@pytest.mark.parametrize("value", ['"2"', "two", "true", ".nan", ".inf", "-.inf", "[2]", "{a: 2}", "1e31", "9" * 400])
def test_a_threshold_is_a_finite_number(value: str) -> None:
    problem = only_problem("threshold: {fire: 2}", f"threshold: {{fire: {value}}}")
    assert problem.field == "spec.detectors[1].threshold.fire"
    assert problem.line == line_with("threshold: {fire: 2}")
    assert problem.rule in ("must be a finite number", "must be at most 1e+30")
    assert problem.remedy


def test_a_problem_reads_as_value_rule_and_remedy() -> None:
    problem = only_problem("threshold: {fire: 2}", "threshold: {fire: high}")
    assert str(problem) == (
        'p.yaml:21 spec.detectors[1].threshold.fire: "high" — must be a finite number. '
        "Write a number without quotes, e.g. 7.3."
    )


def test_a_severity_that_resembles_none_is_left_to_its_author() -> None:
    problem = only_problem("severity: low", "severity: urgent")
    assert problem.rule == "must be 'informational', 'low', 'medium', 'high' or 'critical'"
    assert problem.remedy == "choose one of these"


def test_a_number_without_its_unit_is_told_how_to_write_it() -> None:
    assert only_problem("for: 2 tokens", "for: 2").remedy == "write for example 3 tokens"


def test_all_problems_are_told_at_once_in_order_of_lines() -> None:
    text = changed("mode: alert", "mode: enforced").replace("halfLife: 8", "halfLive: 8").replace("severity: low", "")
    found = problems(text.replace("name: harm,", "name: Harm,"))
    assert [problem.field for problem in found] == [
        "metadata.name",
        "spec.mode",
        "spec.detectors[0].aggregate.halfLive",
        "spec.rules[1].severity",
    ]
    error = PolicyError(found)
    assert isinstance(error, FeaturewatchError)
    assert str(error).count("\n") == 3
    assert error.remedy == found[0].remedy


@pytest.mark.parametrize(
    ("before", "after", "field", "part"),
    [
        ("warn: 4.1", "warn: 7.4", "spec.detectors[0].threshold.warn", "warn must not be above fire (7.3)"),
        ("clear: 5.0", "clear: 7.4", "spec.detectors[0].threshold.clear", "clear must not be above fire (7.3)"),
        ("name: harm,", "name: harm_ful,", "metadata.name", "lower-case letters"),
        ("revision: 3", "revision: 0", "metadata.revision", "at least 1"),
        ("revision: 3", "revision: 1.5", "metadata.revision", "whole number"),
        ("id: HARM-001", "id: 1HARM", "spec.rules[0].id", "begin with a letter"),
        ("id: HARM-002", "id: HARM-001", "spec.rules[1].id", "already used in line 27"),
        ("for: 2 tokens", "for: 2", "spec.rules[0].for", "must be a number of tokens"),
        ("for: 2 tokens", "for: two tokens", "spec.rules[0].for", "number of tokens"),
        ("for: 2 tokens", "for: 0 tokens", "spec.rules[0].for", "number of tokens"),
        ("window: 16", "window: 0", "spec.detectors[1].aggregate.window", "at least 1"),
        ("window: 16", "window: 16, halfLife: 3", "spec.detectors[1].aggregate.halfLife", "belongs to ema"),
        (", window: 16", "", "spec.detectors[1].aggregate.kind", "rolling_mean needs window"),
        ("halfLife: 8", "halfLife: 0", "spec.detectors[0].aggregate.halfLife", "greater than 0"),
        ("{kind: max,", "{kind: max, then: max,", "spec.detectors[2].aggregate.then", "running maximum already"),
        ("special, template, system]", "special, bos]", "spec.detectors[0].aggregate.skip[2]", "given once"),
        ("{index: 2}", "{index: 7}", "spec.detectors[0].source.saeLatents.latents[1].index", "given once"),
        ("{index: 2}", "{index: -1}", "spec.detectors[0].source.saeLatents.latents[1].index", "at least 0"),
        ("{index: 2}", "{weight: 2}", "spec.detectors[0].source.saeLatents.latents[1]", "its index or its label"),
        ("targetFpr: 0.01", "targetFpr: 1", "spec.detectors[0].calibration.targetFpr", "less than 1"),
        ("hits: 9", "hits: 1001", "spec.detectors[0].calibration.hits", "at most 1000 hits"),
        ("hook: resid_post.14", "hook: layer14", "spec.fittedOn.hook", "resid_post.<layer>"),
        ("hook: resid_post.14", "sae: 12ab", "spec.fittedOn.sae", "64 hexadecimal digits"),
        ('["*Tiny*"]', '"*"', "spec.match.models", "must be a list"),
        ('["*Tiny*"]', "[]", "spec.match.models", "at least one entry"),
        ("weights/harm.dense", "../harm.dense", "spec.detectors[2].source.denseProbe.file", "beside the policy file"),
        ("weights/harm.dense", "/etc/harm.dense", "spec.detectors[2].source.denseProbe.file", "beside the policy"),
        ("{saeProbe:", "{denseProbe: {file: a}, saeProbe:", "spec.detectors[1].source", "exactly one source"),
        ("{saeProbe: {file: weights/harm.sae.safetensors}}", "{}", "spec.detectors[1].source", "this one has 0"),
        ("when: not latents.clear", "when: dens.fire", "spec.rules[1].when", "has: latents, sae_probe, dense"),
        ("when: not latents.clear", "when: not latents", "spec.rules[1].when", "at character 5 'latents'"),
        ("apiVersion: monitor/v1", "apiVersion: monitor/v2", "apiVersion", "must be 'monitor/v1'"),
        ("status: test", "status: done", "metadata.status", "'experimental', 'test', 'stable' or 'deprecated'"),
        ("owner: oncall@example.org", "owner:", "metadata.owner", "no value"),
        ("owner: oncall@example.org", "owner: 3", "metadata.owner", "must be text"),
        ("revision: 3", "revision: 3, revision: 4", "metadata.revision", "already given in line 3"),
        ("actions: [alert]", "actions: [alert, alert]", "spec.rules[1].actions[1]", "given once"),
        ("actions: [alert]", "actions: [capture]", "spec.rules[1].actions", "a rule that fires alerts"),
        ("actions: [alert]", "actions: [alert, capture]", "spec.rules[1].actions", "record.content is none"),
        ("actions: [alert]", "actions: [alert, capt]", "spec.rules[1].actions[1]", "'alert' or 'capture'"),
        ("record: {content: none}", "record: none", "spec.record", "block of fields"),
    ],
)
def test_a_fault_is_named_with_field_and_rule(before: str, after: str, field: str, part: str) -> None:
    problem = only_problem(before, after)
    assert problem.field == field
    assert part in problem.rule
    assert problem.line == line_with(before)
    assert problem.remedy


@pytest.mark.parametrize(
    ("before", "after", "remedy"),
    [
        ("halfLife: 8", "halflife: 8", "did you mean halfLife"),
        ("minTokens: 4", "minToken: 4", "did you mean minTokens"),
        ("severity: low", "severty: low", "did you mean severity"),
        ("status: test", "status: tset", "did you mean test"),
        ("when: not latents.clear", "when: latents.claer", "did you mean latents.clear"),
        ("when: not latents.clear", "when: latent.fire", "did you mean latents"),
    ],
)
def test_the_nearest_known_word_is_offered(before: str, after: str, remedy: str) -> None:
    assert remedy in [problem.remedy for problem in problems(changed(before, after))]


@pytest.mark.parametrize(
    ("before", "after", "field"),
    [
        ("phases: [prompt, response]", "routes: [chat]", "spec.match.routes"),
        ("phases: [prompt, response]", "adapters: [a]", "spec.match.adapters"),
        ("{denseProbe:", "{absence: {window: 3}, denseProbe:", "spec.detectors[2].source.absence"),
        ("for: 2 tokens", "for: 2 windows", "spec.rules[0].for"),
        ("actions: [alert]", "actions: [alert, stop]", "spec.rules[1].actions[1]"),
        ("actions: [alert]", "actions: [alert, trace]", "spec.rules[1].actions[1]"),
        ("actions: [alert]", "steer: {}", "spec.rules[1].steer"),
        ("actions: [alert]", "inline: true", "spec.rules[1].inline"),
        ("record: {content: none}", "record: {content: redacted}", "spec.record.content"),
        ("record: {content: none}", "record: {retention: 183d}", "spec.record.retention"),
        ("record: {content: none}", "sensitivity: 2", "spec.sensitivity"),
    ],
)
def test_what_is_planned_is_refused_by_name(before: str, after: str, field: str) -> None:
    problem = only_problem(before, after)
    assert (problem.field, problem.rule) == (field, "not implemented in this version")


BILLION_LAUGHS = "a: &a [x, x]\n" + "".join(
    f"{chr(ord('b') + i)}: &{chr(ord('b') + i)} [*{chr(ord('a') + i)}, *{chr(ord('a') + i)}]\n" for i in range(20)
)


@pytest.mark.parametrize(
    ("text", "line", "part"),
    [
        ("", 1, "the file is empty"),
        ("# only a comment\n", 1, "the file is empty"),
        ("- a\n- b\n", 1, "a policy is a block of fields"),
        ("just words", 1, "a policy is a block of fields"),
        ("42", 1, "a policy is a block of fields"),
        ("apiVersion: monitor/v1\nkind: PolicyTest\npolicy: a.yaml\n", 2, "this file holds the tests of a policy"),
        ("a: 1\nb: [1, 2\n", 3, "must be YAML"),
        ("a: 1\n\tb: 2\n", 2, "must be YAML"),
        ("a: 'open\n", 2, "must be YAML"),
        ("a: \x00", 1, "must be YAML"),
        ('a: "\\UFFFFFFFF"', 1, "must be YAML"),
        ("a: 1\n---\nb: 2\n", 2, "a file holds one policy"),
        ("a: 1\nb: !!python/object:os.system [ls]\n", 2, "tags are not used"),
        ("a: 1\nb: !!binary aGk=\n", 2, "tags are not used"),
        ("a: 1\nb: !!str 1\n", 2, "tags are not used"),
        ("a: 1\nb: ! 1\n", 2, "tags are not used"),
        ("a: 1\nb: !!seq [1]\n", 2, "tags are not used"),
        ("a: 1\nb: !!map {c: 1}\n", 2, "tags are not used"),
        ("a: 1\n!!str b: 1\n", 2, "tags are not used"),
        ("a: 1\n! 'b': 1\n", 2, "tags are not used"),
        (BILLION_LAUGHS, 1, "anchors and aliases are not used"),
        ("a: *nowhere\n", 1, "anchors and aliases are not used"),
        ("a: &a\n  b: *a\n", 1, "anchors and aliases are not used"),
        ("[" * 5000, 1, "at most 24 deep"),
        ("a: " + "{b: " * 5000, 1, "at most 24 deep"),
        ("? [a, b]\n: c\n", 1, "must be a word"),
        ("x" * 1_000_001, 1, "the file has at most 1,000,000 characters"),
        (f"a:\n  [{'1, ' * 50_000}1]\n", 2, "a file has at most 50,000 names and values"),
    ],
)
def test_a_file_that_is_no_policy_is_refused_without_traceback(text: str, line: int, part: str) -> None:
    found = problems(text)
    assert [problem.line for problem in found if part in problem.rule] == [line]
    assert all(len(problem.value) <= 160 for problem in found)


def test_problems_are_one_line_each_whatever_the_file_holds() -> None:
    text = changed("mode: alert", '"mo\\nde\\e[31m": "a\\nb"')
    for problem in problems(text):
        assert all(field.isprintable() for field in map(str, dataclasses.astuple(problem)))
