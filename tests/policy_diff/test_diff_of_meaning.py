"""What differs in meaning, what does not, and which way a change goes."""

from __future__ import annotations

import pytest

from monitor.policy import parse_policy
from monitor.policy_diff import Kind, diff_policies

POLICY = """\
apiVersion: monitor/v1
kind: Policy
metadata: {name: bio, revision: 1}
spec:
  mode: shadow
  match: {models: [a*, b*], phases: [prompt, response]}
  detectors:
    - id: one
      source: {saeLatents: {sae: s, latents: [{index: 4}, {index: 7, weight: 2}]}}
      aggregate: {kind: ema, halfLife: 8}
      threshold: {fire: 2}
    - id: two
      source: {denseProbe: {file: w/p.safetensors}}
      aggregate: {kind: max}
      threshold: {warn: 1, fire: 2, clear: 1.5}
    - id: spare
      source: {denseProbe: {file: w/q.safetensors}}
      aggregate: {kind: max}
      threshold: {fire: 2}
  rules:
    - {id: R-1, when: one.fire and not two.fire, for: 3 tokens, severity: high}
    - {id: R-2, when: two.fire, severity: low}
"""


def changes(old: str, new: str) -> list[tuple[str, Kind, str]]:
    found = diff_policies(parse_policy(POLICY), parse_policy(POLICY.replace(old, new)))
    assert old in POLICY
    return [(change.path, change.kind, change.effect) for change in found]


SECOND = "    - {id: R-2, when: two.fire, severity: low}\n"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("[a*, b*]", "[b*, a*]"),
        ("[prompt, response]", "[response, prompt]"),
        ("threshold: {fire: 2}\n    - id: two", "threshold: {fire: 2.0, warn: 2, clear: 2}\n    - id: two"),
        ("[{index: 4}, {index: 7, weight: 2}]", "[{weight: 2, index: 7}, {index: 4, weight: 1.0}]"),
        ("one.fire and not two.fire", "not (two.fire or not one.fire)"),
        ("severity: low", "severity: low, for: 1 tokens, actions: [alert]"),
        ("halfLife: 8}", "halfLife: 8, minTokens: 1, skip: [template, bos, special]}"),
        ("  mode: shadow", "  mode: shadow\n  onUnseen: accept\n  # a comment"),
    ],
)
def test_what_means_the_same(old: str, new: str) -> None:
    assert changes(old, new) == []


def test_the_order_of_rules_and_detectors_means_nothing() -> None:
    first = "    - {id: R-1, when: one.fire and not two.fire, for: 3 tokens, severity: high}\n"
    assert changes(first + SECOND, SECOND + first) == []


@pytest.mark.parametrize(
    ("old", "new", "path", "kind", "effect"),
    [
        ("revision: 1", "revision: 2", "metadata.revision", Kind.WORDS, "for the reader"),
        ("name: bio", "name: bio-2", "metadata.name", Kind.DIFFERENT, "another policy"),
        ("mode: shadow", "mode: alert", "mode", Kind.MORE, "alerts are sent"),
        ("mode: shadow", "mode: 'off'", "mode", Kind.LESS, "nothing is judged"),
        ("[a*, b*]", "[a*]", "match.models", Kind.LESS, "fewer requests are judged"),
        ("[a*, b*]", '["*"]', "match.models", Kind.MORE, "more requests are judged"),
        ("[a*, b*]", "[c*]", "match.models", Kind.DIFFERENT, "other requests are judged"),
        ("[prompt, response]", "[prompt]", "match.phases", Kind.LESS, "fewer tokens are judged"),
        ("fire: 2, clear: 1.5", "fire: 3, clear: 1.5", "detectors[two].threshold.fire", Kind.DIFFERENT, "R-1 and R-2"),
        ("halfLife: 8", "halfLife: 9", "detectors[one].aggregate.halfLife", Kind.DIFFERENT, "other generations"),
        (
            "halfLife: 8",
            "halfLife: 8, minTokens: 4",
            "detectors[one].aggregate.minTokens",
            Kind.LESS,
            "R-1 can fire on",
        ),
        ("halfLife: 8", "halfLife: 8, then: max", "detectors[one].aggregate.then", Kind.MORE, "R-1 can fire on more"),
        (
            "weight: 2",
            "weight: 3",
            "detectors[one].source.saeLatents.latents[7].weight",
            Kind.DIFFERENT,
            "R-1 can fire",
        ),
        ("w/q", "w/r", "detectors[spare].source.denseProbe.file", Kind.DIFFERENT, "no rule names the detector"),
        ("3 tokens", "5 tokens", "rules[R-1].for", Kind.LESS, "fewer"),
        ("one.fire and", "one.warn and", "rules[R-1].when", Kind.MORE, "holds whenever it did"),
        ("not two.fire", "two.fire", "rules[R-1].when", Kind.DIFFERENT, "other generations"),
        ("when: two.fire", "when: two.fire and one.fire", "rules[R-2].when", Kind.LESS, "only where it did"),
        ("severity: low", "severity: medium", "rules[R-2].severity", Kind.DIFFERENT, "alerts of R-2"),
        (SECOND, "", "rules[R-2]", Kind.LESS, "fires no more"),
        (SECOND, SECOND + SECOND.replace("R-2", "R-3"), "rules[R-3]", Kind.MORE, "one more rule"),
        ("  rules:", "  record: {content: none}\n  rules:", "record.content", Kind.DIFFERENT, "what the record keeps"),
    ],
)
def test_which_way_a_change_goes(old: str, new: str, path: str, kind: Kind, effect: str) -> None:
    (found,) = changes(old, new)
    assert found[:2] == (path, kind)
    assert effect in found[2]


def test_a_threshold_that_only_one_version_writes_out() -> None:
    (found,) = changes("threshold: {fire: 2}\n    - id: two", "threshold: {fire: 2, warn: 1}\n    - id: two")
    assert found == ("detectors[one].threshold.warn", Kind.MORE, "R-1 can fire on more generations")
