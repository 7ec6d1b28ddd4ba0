"""Each field of the format refuses what it cannot mean, with field, line, value, rule and remedy."""

from __future__ import annotations

import re

import pytest
from faults import faults
from policy_seeds import ANSWERS, COUNTING, SERVING
from schema_paths import schema_paths

from monitor.policy import problem_text
from monitor.policy.json_schema import json_schema
from monitor.policy.schema.fields import seconds

LATENTS, AGGREGATE = "spec.detectors[0].source.saeLatents", "spec.detectors[0].aggregate"
EXCEPTION, CORRELATION = "spec.rules[0].exceptions[0]", "spec.correlations[0]"

BAD_COUNTING = [
    ("label: weapons,", "label: '',", f"{LATENTS}.latents[0].label", '""', "must not be empty"),
    ("label: weapons,", "", f"{LATENTS}.latents[0]", "", "named by its index or its label"),
    ("{index: 3}]", "{label: weapons}]", f"{LATENTS}.latents[2].label", '"weapons"', "given once"),
    ("over: 0.5}, {index: 2", "over: x}, {index: 2", f"{LATENTS}.latents[0].over", '"x"', "finite number"),
    ("k: 2", "k: 0", f"{LATENTS}.k", "0", "at least 1"),
    ("k: 2", "k: 4", f"{LATENTS}.k", "4", "there are 3 latents"),
    ("          k: 2\n", "", f"{LATENTS}.combine", '"k_of_n"', "k_of_n needs k"),
    ("combine: k_of_n", "combine: all", f"{LATENTS}.k", "2", "k belongs to k_of_n, not to all"),
    ("combine: any", "combine: max", "spec.detectors[1].source.saeLatents.latents[0].over", "3", "over belongs to any"),
    ("combine: any", "combine: some", "spec.detectors[1].source.saeLatents.combine", '"some"', "'any'"),
    ("window: 8, over: 0.5", "window: 8", f"{AGGREGATE}.kind", '"count_over"', "count_over needs over"),
    ("window: 8, over: 0.5", "over: 0.5", f"{AGGREGATE}.kind", '"count_over"', "count_over needs window"),
    ("window: 8, over: 0.5", "window: 5000, over: 0.5", f"{AGGREGATE}.window", "5000", "at most 4096"),
    ("kind: cusum, drift: 0.1", "kind: cusum", "spec.detectors[1].aggregate.kind", '"cusum"', "cusum needs drift"),
    ("drift: 0.1", "drift: 0.1, over: 2", "spec.detectors[1].aggregate.over", "2", "over belongs to count_over"),
    ("drift: 0.1", "drift: .inf", "spec.detectors[1].aggregate.drift", ".inf", "finite number"),
    ("kind: mean", "kind: mean, drift: 1", "spec.detectors[2].aggregate.drift", "1", "drift belongs to cusum"),
    ("kind: mean", "kind: mean, window: 3", "spec.detectors[2].aggregate.window", "3", "rolling_mean and count_over"),
    ("then: max", "then: min", f"{AGGREGATE}.then", '"min"', "must be 'max'"),
    ("recall: 0.5", "recall: 1.1", "spec.detectors[1].calibration.recall", "1.1", "at most 1"),
    ("date: 2026-02-28", "date: 2026-02-29", "spec.detectors[1].calibration.date", '"2026-02-29"', "no such day"),
    ("date: 2026-02-28", "date: 28.2.2026", "spec.detectors[1].calibration.date", '"28.2.2026"', "year-month-day"),
    ("n: 500", "n: 1000000001", "spec.detectors[1].calibration.n", "1000000001", "at most 1000000000"),
    ("targetFpr: 0.01", "targetFpr: 0", "spec.detectors[1].calibration.targetFpr", "0", "at least 1e-09"),
    ("TICKET-1]", "7]", "metadata.references[1]", "7", "must be text"),
]
BAD_SERVING = [
    ("mode: enforce", "mode: block", "spec.mode", '"block"', "'enforce'"),
    ('tenants: [acme, "b*"]', "tenants: []", "spec.match.tenants", "[]", "at least one entry"),
    ('tenants: [acme, "b*"]', "tenants: [1]", "spec.match.tenants[0]", "1", "must be text"),
    ("phases: [reasoning, response]", "phases: [thought]", "spec.match.phases[0]", '"thought"', "'reasoning'"),
    ("sample: 0.25", "sample: 0", "spec.match.sample", "0", "greater than 0"),
    ("sample: 0.25", "sample: 1.5", "spec.match.sample", "1.5", "at most 1"),
    ('vllm: "0.32"', "vllm: 0.32", "spec.fittedOn.vllm", "0.32", "must be text"),
    ("dtype: bfloat16", "dtype: bf16", "spec.fittedOn.dtype", '"bf16"', "'bfloat16'"),
    ("revision: 4294967295", "revision: 4294967296", "metadata.revision", "4294967296", "at most 4294967295"),
    ("status: deprecated", "status: old", "metadata.status", '"old"', "'deprecated'"),
    ("threshold: 0.01", "threshold: 1", "spec.onDrop.threshold", "1", "less than 1"),
    ("threshold: 0.01, ", "", "spec.onDrop.threshold", "", "required"),
    ("[alert, log]", "[exit]", "spec.onDrop.actions[0]", '"exit"', "'log' or 'alert'"),
    ("[alert, log]", "[log, log]", "spec.onDrop.actions[1]", '"log"', "given once"),
    ("[alert, log]", "[]", "spec.onDrop.actions", "[]", "at least one entry"),
    ("id: SERVE-1", "id: on-drop", "spec.rules[0].id", '"on-drop"', "alerts of spec.onDrop carry the rule id"),
    ("id: SERVE-1", "id: on-timeout", "spec.rules[0].id", '"on-timeout"', "onTimeout"),
    ("id: SERVE-1", "id: on-stale", "spec.rules[0].id", '"on-stale"', "spec.fittedOn"),
]
BAD_ANSWERS = [
    ("deadlineMs: 50", "deadlineMs: 0", "spec.rules[0].deadlineMs", "0", "at least 1"),
    ("deadlineMs: 50", "deadlineMs: 600001", "spec.rules[0].deadlineMs", "600001", "at most 600000"),
    ("      deadlineMs: 50\n", "", "spec.rules[0].onTimeout", '"alert"', "onTimeout needs deadlineMs"),
    ("onTimeout: alert", "onTimeout: stop", "spec.rules[0].onTimeout", '"stop"', "'continue' or 'alert'"),
    ("reason: approved exercise", "reason: ''", f"{EXCEPTION}.reason", '""', "must not be empty"),
    ("          reason: approved exercise\n", "", f"{EXCEPTION}.reason", "", "required"),
    ("          expires: 2027-01-31\n", "", f"{EXCEPTION}.expires", "", "required"),
    ("expires: 2027-01-31", "expires: 2027-02-29", f"{EXCEPTION}.expires", '"2027-02-29"', "no such day"),
    ("expires: 2027-01-31", "expires: never", f"{EXCEPTION}.expires", '"never"', "year-month-day"),
    ("name: red-team", "name: canary", "spec.rules[0].exceptions[1].name", '"canary"', "already used"),
    ("name: red-team", "name: 7up", f"{EXCEPTION}.name", '"7up"', "begin with a letter"),
    (
        "match: {adapters: [lora-b]}",
        "match: {}",
        "spec.rules[0].exceptions[1].match",
        "",
        "for which requests it holds",
    ),
    (
        "match: {adapters: [lora-b]}",
        "match: {tap: [x]}",
        "spec.rules[0].exceptions[1].match.tap",
        '["x"]',
        "known: ten",
    ),
    ("adapters: [lora-a]", "adapters: []", f"{EXCEPTION}.match.adapters", "[]", "at least one entry"),
    (
        "kind: count, rules: [ANSWER-1, ANSWER-2]",
        "kind: sum, rules: [ANSWER-1]",
        f"{CORRELATION}.kind",
        '"sum"',
        "'cou",
    ),
    (
        "[ANSWER-1, ANSWER-2], within: 10m",
        "[ANSWR-1], within: 10m",
        f"{CORRELATION}.rules[0]",
        "ANSWR-1",
        "no such rule",
    ),
    ("[ANSWER-1, ANSWER-2], within: 10m", "[MANY], within: 10m", f"{CORRELATION}.rules[0]", "MANY", "no such rule"),
    ("[ANSWER-1, ANSWER-2], within: 10m", "[], within: 10m", f"{CORRELATION}.rules", "[]", "at least one entry"),
    ("within: 10m, atLeast: 5", "within: 10m", f"{CORRELATION}.kind", '"count"', "count needs atLeast"),
    ("within: 10m, atLeast: 5", "within: 10m, atLeast: 1", f"{CORRELATION}.atLeast", "1", "at least 2"),
    ("within: 10m", "within: 10", f"{CORRELATION}.within", "10", "and s, m, h or d"),
    ("within: 10m", "within: 1w", f"{CORRELATION}.within", '"1w"', "and s, m, h or d"),
    ("within: 10m", "within: 0m", f"{CORRELATION}.within", '"0m"', "and s, m, h or d"),
    ("atLeast: 5", "atLeast: 5, of: rule", f"{CORRELATION}.of", '"rule"', "of belongs to distinct, not to count"),
    ("id: MANY", "id: ANSWER-2", f"{CORRELATION}.id", "ANSWER-2", "already used in line 26"),
    ("id: VARIED", "id: MANY", "spec.correlations[1].id", "MANY", "already used in line 28"),
    ("id: MANY", "id: on-unseen", f"{CORRELATION}.id", '"on-unseen"', "spec.onUnseen"),
    ("      of: generation\n", "", "spec.correlations[1].kind", '"distinct"', "distinct needs of"),
    ("of: generation", "of: model", "spec.correlations[1].of", '"model"', "all have the same model"),
    ("[tenant, adapter, tap, model]", "[tenant, tenant]", "spec.correlations[1].groupBy[1]", '"tenant"', "given once"),
    ("groupBy: [], ", "", "spec.correlations[3].of", '"tenant"', "all have the same tenant"),
    (
        "within: 30s",
        "within: 30s, atLeast: 2",
        "spec.correlations[5].atLeast",
        "2",
        "count and distinct, not to ordered",
    ),
    (
        "[ANSWER-1, ANSWER-2], within: 30s",
        "[ANSWER-1], within: 30s",
        "spec.correlations[5].rules",
        '["ANSWER-1"]',
        "two",
    ),
    ("actions: [alert]}", "actions: [alert, alert]}", f"{CORRELATION}.actions[1]", '"alert"', "given once"),
    ("wait: 10s", "wait: soon", "spec.notify.wait", '"soon"', "and s, m, h or d"),
    ("interval: 1m", "interval: 1M", "spec.notify.interval", '"1M"', "and s, m, h or d"),
    ("repeat: 12h", "repeat: 12 h", "spec.notify.repeat", '"12 h"', "and s, m, h or d"),
    ("[rule, severity,", "[rule, rule,", "spec.notify.groupBy[1]", '"rule"', "given once"),
    ("[rule, severity,", "[policy, severity,", "spec.notify.groupBy[0]", '"policy"', "'rule', 'severity'"),
    ("content: full", "content: none", "spec.rules[0].actions", '["alert", "capture"]', "record.content is none"),
    ('mode: "off"', "mode: false", "spec.mode", "false", "'off'"),
]


@pytest.mark.parametrize(
    ("text", "before", "after", "field", "value", "part"),
    [
        *((COUNTING, *bad) for bad in BAD_COUNTING),
        *((SERVING, *bad) for bad in BAD_SERVING),
        *((ANSWERS, *bad) for bad in BAD_ANSWERS),
    ],
)
def test_a_bad_value_is_refused_where_it_stands(  # noqa: PLR0917
    text: str, before: str, after: str, field: str, value: str, part: str
) -> None:
    assert text.count(before) == 1, before
    changed = text.replace(before, after)
    (found,) = faults(changed)
    assert (found.file, found.field, found.value) == ("p.yaml", field, value)
    assert part in found.rule
    assert found.remedy
    line, name = changed.splitlines()[found.line - 1], re.sub(r"\[\d+\]$", "", field).rpartition(".")[2]
    # A field that is missing is told at the block around it.
    assert name in line or (found.rule == "the field is required" and found.line <= line_at(text, before))


def line_at(text: str, part: str) -> int:
    return 1 + text[: text.index(part)].count("\n")


@pytest.mark.parametrize(
    ("before", "after", "remedy"),
    [
        ("[ANSWER-1, ANSWER-2], within: 10m", "[ANSWR-1], within: 10m", "did you mean ANSWER-1"),
        ("onTimeout: alert", "ontimeout: alert", "did you mean onTimeout"),
        ("deadlineMs: 50", "deadline: 50", "did you mean deadlineMs"),
        ("expires: 2027-01-31", "expire: 2027-01-31", "did you mean expires"),
        ("  correlations:", "  correlation:", "did you mean correlations"),
        ("repeat: 12h", "repeats: 12h", "did you mean repeat"),
        ("kind: ordered", "kind: order", "did you mean ordered"),
    ],
)
def test_the_nearest_name_is_offered(before: str, after: str, remedy: str) -> None:
    assert remedy in [problem.remedy for problem in faults(ANSWERS.replace(before, after))]


@pytest.mark.parametrize(
    ("text", "before", "after"),
    [
        (COUNTING, "{index: 3}]", "{index: 3, label: weapons}]"),
        (COUNTING, "k: 2", "k: 3"),
        (COUNTING, "drift: 0.1", "drift: -0.5"),
        (COUNTING, "hits: 0", "hits: 500"),
        (COUNTING, "date: 2026-02-28", "date: 2024-02-29"),
        (SERVING, "sample: 0.25", "sample: 1"),
        (SERVING, "threshold: 0.01", "threshold: 0"),
        (SERVING, ", actions: [alert, log]", ""),
        (ANSWERS, "      onTimeout: alert\n", ""),
        (ANSWERS, "within: 30s", "within: 999999d"),
        (ANSWERS, "groupBy: [rule, severity, tenant, model, tap], ", ""),
        (ANSWERS, "{groupBy: [rule, severity, tenant, model, tap], wait: 10s, interval: 1m, repeat: 12h}", "{}"),
    ],
)
def test_the_ends_of_the_ranges_are_good(text: str, before: str, after: str) -> None:
    assert text.count(before) == 1, before
    assert faults(text.replace(before, after)) == []


def test_every_pattern_has_a_rule_and_a_remedy() -> None:
    patterns = [path for path, node in schema_paths(json_schema()) if "pattern" in node]
    assert len(patterns) > 10
    for path in patterns:
        rule, remedy = problem_text._pattern(path.replace("[]", "[3]"))
        assert rule
        assert remedy


@pytest.mark.parametrize(("text", "expected"), [("2s", 2), ("10m", 600), ("3h", 10_800), ("1d", 86_400)])
def test_durations_are_counted_in_seconds(text: str, expected: int) -> None:
    assert seconds(text) == expected
