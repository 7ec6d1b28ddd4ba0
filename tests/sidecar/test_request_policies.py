"""Each request is judged as by a sidecar that has only the policies that judge it, prefix cache or none."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from prefix_kit import Piece, Request, frame, judge_of, plan_of
from prefix_scenarios import ACME_POLICY, policy_texts, requests, schedule
from rich.console import Console

from monitor.cli.render import render_generation
from monitor.policy import judges, parse_policy
from monitor.sidecar.ledger import PolicyLedger
from monitor.sidecar.plan import TapPlan
from monitor.sidecar.prefix.states import PrefixStates
from monitor.sidecar.records import prepare_record
from monitor.sidecar.request import LiveRequest
from monitor.v1.alerts_pb2 import Alert

TENANTS = ("", "acme", "acme-test", "zoo")


def matched(rng: Random, text: str, phases: Sequence[str]) -> str:
    """The policy with tenants or a sample of its own.

    All judge the same phases: where one of them tells prompt and response apart, no prefix that holds both is known.
    """
    policy = json.loads(text)
    policy["spec"]["match"]["phases"] = phases
    if rng.random() < 0.6:
        policy["spec"]["match"]["tenants"] = rng.choice([["*"], ["acme*"], ["zoo", "acme"], ["?*"]])
    if rng.random() < 0.5:
        policy["spec"]["match"]["sample"] = rng.choice([0.3, 0.7])
    if rng.random() < 0.3:
        policy["spec"]["onUnseen"] = "alert"
    return json.dumps(policy)


def for_all(text: str) -> str:
    """The same policy for every request."""
    policy = json.loads(text)
    for field in ("tenants", "sample"):
        policy["spec"]["match"].pop(field, None)
    return json.dumps(policy)


def run(
    plan: TapPlan, frames: Sequence[Sequence[Piece]], block_size: int
) -> tuple[PolicyLedger, dict[int, LiveRequest]]:
    """What was counted, and ended requests by handle."""
    ledger, ended = PolicyLedger(), dict[int, LiveRequest]()
    judge = judge_of(plan, PrefixStates(1 << 30), block_size, ledger=ledger)
    for seq, pieces in enumerate(frames, 1):
        verdicts = judge.apply(frame(plan, seq, pieces))
        ended |= {request.identity.handle: request for request in verdicts.ended}
    return ledger, ended


def told(alert: Alert) -> tuple[Any, ...]:
    """All but what comes from the policy's text: its hash, and the id that it is part of."""
    copy = Alert.FromString(alert.SerializeToString())
    copy.alert_id = copy.policy_sha256 = ""
    return (copy.SerializeToString(deterministic=True),)


def verdicts_of(request: LiveRequest) -> dict[str, Any]:
    """By policy what is known of a request: alerts, peaks, and the scores of its tokens."""
    size, summary = request.coverage.next_position, request.summary()
    scores_pd, token_scores_pd = request.log.scores(size)
    found = {}
    for policy in request.plan.served:
        columns = [d for d, one in enumerate(request.plan.policies.detectors) if one.policy == policy]
        scores = np.concatenate([scores_pd[:, columns], token_scores_pd[:, columns]])
        peaks = [peak.SerializeToString() for peak in summary.peaks if peak.policy == policy]
        alerts = [told(alert) for alert in request.alerts if alert.policy == policy]
        if alerts or peaks or not np.isnan(scores).all():
            found[policy] = alerts, peaks, scores.tobytes()
    return found


@settings(max_examples=60, deadline=None, phases=[Phase.generate])
@given(st.integers(0, 2**32 - 1), st.booleans())
def test_a_request_is_judged_as_if_there_were_only_the_policies_that_judge_it(seed: int, cache: bool) -> None:
    rng = Random(seed)
    phases = rng.choice([["prompt", "reasoning", "response"], ["reasoning", "response"], ["prompt"]])
    texts = [matched(rng, text, phases) for text in policy_texts(rng)]
    # A row is dropped when any direction of any policy is not finite there: then the others count.
    made = [replace(request, tenant=rng.choice(TENANTS), odd=False) for request in requests(rng)]
    block_size = rng.choice([1, 2, 4]) if cache else 0
    frames = schedule(rng, made, block_size or 4)
    ledger, ended = run(plan_of(texts), frames, block_size)
    rows = Counter[str]()
    for request in made:
        policies = [parse_policy(text) for text in texts]
        own = [
            text
            for text, policy in zip(texts, policies, strict=True)
            if judges(policy, request.tenant, request.begin().request_id)
        ]
        _, alone = run(plan_of([for_all(text) for text in own]), frames, block_size) if own else (None, {})
        found = ended[request.handle]
        assert found.judging.policies == {json.loads(text)["metadata"]["name"] for text in own}
        if not own:
            assert verdicts_of(found) == {}
            assert found.alerts == []
            continue
        expected = alone[request.handle]
        assert verdicts_of(found) == verdicts_of(expected)
        assert [told(alert) for alert in found.alerts] == [told(alert) for alert in expected.alerts]
        assert found.summary().coverage == expected.summary().coverage
        assert found.content == expected.content
        rows += judged_rows(found)
    assert +ledger.rows_judged == rows


def judged_rows(request: LiveRequest) -> Counter[str]:
    """By policy the rows that a detector of it judged."""
    _, token_scores_pd = request.log.scores(request.coverage.next_position)
    columns = {name: [] for name in request.plan.served}
    for d, detector in enumerate(request.plan.policies.detectors):
        columns[detector.policy].append(d)
    return +Counter(
        {name: int(np.isfinite(token_scores_pd[:, own]).any(axis=1).sum()) for name, own in columns.items()}
    )


@pytest.mark.parametrize("tenant", ["", "other"])
def test_a_prefix_that_another_tenant_computed_is_known_to_the_one_who_is_judged(tenant: str) -> None:
    """The engine computes it once; nobody would see it again."""
    plan, prompt = plan_of([json.dumps(ACME_POLICY)]), [6, 7, 8, 9, 6]
    first, second = Request(1, prompt, [], tenant=tenant), Request(2, prompt, [], tenant="acme")
    frames = [
        [Piece(first, 0, 5)],
        [Piece(second, 0, 4, gap=1), Piece(second, 4, 5)],  # type: ignore[arg-type]
    ]
    _, ended = run(plan, frames, 4)
    assert (ended[1].alerts, ended[1].summary().coverage.observed) == ([], 5)
    assert [(alert.rule, alert.position, alert.restored) for alert in ended[2].alerts] == [("R", 0, True)]
    assert ended[2].summary().coverage.restored == 4


def test_a_request_that_no_policy_judges_is_covered_and_nothing_else() -> None:
    plan = plan_of([json.dumps(ACME_POLICY)])
    ledger, ended = run(plan, [[Piece(Request(1, [6, 7, 8], [9]), 0, 4)]], 0)
    (request,) = ended.values()
    assert (request.alerts, list(request.summary().peaks), request.summary().tenant) == ([], [], "")
    assert request.summary().coverage.observed == 4
    assert ledger.rows_judged["p"] == 0


def test_the_record_of_a_request_that_no_policy_judges_has_tokens_and_no_scores() -> None:
    """A client captured it."""
    plan = plan_of([json.dumps(ACME_POLICY)])
    judge = judge_of(plan, PrefixStates(0), 0)
    verdicts = judge.apply(frame(plan, 1, [Piece(Request(1, [6, 7, 8], [9]), 0, 3)]))
    assert verdicts.alerts == []
    record = prepare_record(judge.live[0], judge)()
    assert (list(record.score_columns), len(record.tokens)) == ([], 3)
    assert [list(token.scores) for token in record.tokens] == [[]] * 3
    console = Console(width=120)
    with console.capture() as shown:
        console.print(render_generation(record))
    assert "all 3 positions judged" in shown.get()
