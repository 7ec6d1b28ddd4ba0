"""What a request says of itself, and what follows: tenants, exceptions, deadlines, drops, reasoning. A real server."""

from __future__ import annotations

import json
import logging

import pytest
from fake_tap import FakeTap, Rows, begin, connect, end
from session_calls import next_alert, policies, record_of, watch
from sidecar_kit import LOUD, World, channel_to, read_events, running_sidecar

from monitor.v1.alerts_pb2 import Mode, Phase
from monitor.v1.generations_pb2 import ListGenerationsRequest
from monitor.v1.generations_pb2_grpc import GenerationServiceStub
from monitor.v1.policies_pb2 import PolicyStatus, RuleStatus
from monitor.v1.tap_pb2 import Gap, GapReason

EXCEPTION = """\
      exceptions:
        - name: {name}
          match: {{tenants: [red-team]}}
          reason: approved exercise
          owner: j.doe@example.org
          expires: "{expires}"
"""


def loud(**changes: str) -> str:
    """The policy `loud` with texts exchanged; `rule` is added to its rule, `spec` to its spec."""
    text = LOUD.replace(
        '    - {id: LOUD-001, when: "dense.fire or latents.fire", severity: high}\n',
        '    - id: LOUD-001\n      when: "dense.fire or latents.fire"\n      severity: high\n'
        + changes.get("rule", ""),
    )
    assert text != LOUD
    match = 'match: {models: ["*tiny*"]}'
    assert match in text
    return text.replace(match, changes.get("match", match)) + changes.get("spec", "")


def with_loud(world: World, **changes: str) -> World:
    (world.policies / "loud.yaml").write_text(loud(**changes))
    return world


async def fire(tap: FakeTap, handle: int, tenant: str = "") -> None:
    """A request that fires LOUD-001 at token 4 and ends."""
    await tap.send(
        tap.frame([Rows(handle, 0, (0, 1, 2), dense=(0, 0, 0))], begins=[begin(handle, tenant=tenant)]),
        tap.frame([Rows(handle, 3, (3, 4), dense=(0, 9))], ends=[end(handle, 5)]),
    )


async def status_of_loud(channel: object) -> PolicyStatus:
    return next(policy for policy in (await policies(channel)).policies if policy.name == "loud")  # type: ignore[arg-type]


async def test_alerts_records_and_lists_name_the_tenant(world: World) -> None:
    jsonl = world.folder / "alerts.jsonl"
    async with running_sidecar(world.config(alerts_jsonl=jsonl)), channel_to(world.socket) as channel:
        alerts = await watch(channel)
        tap = await connect(channel)
        await fire(tap, 1, "acme")
        await tap.send(tap.frame([Rows(2, 0, (0, 1))], begins=[begin(2, (0, 1), tenant="zoo")], ends=[end(2, 2)]))
        alert = await next_alert(alerts)
        record = await record_of(channel, "req-1")
        asked = ListGenerationsRequest(include_unflagged=True)
        listed = await GenerationServiceStub(channel).ListGenerations(asked)
    assert alert.tenant == record.alerts[0].tenant == record.summary.tenant == "acme"
    assert {summary.external_id: summary.tenant for summary in listed.generations} == {"req-1": "acme", "req-2": "zoo"}
    assert [event["tenant"] for event in read_events(jsonl)] == ["acme"]


async def test_a_policy_judges_its_tenants_only(world: World) -> None:
    with_loud(world, match='match: {models: ["*tiny*"], tenants: ["acme*"]}')
    async with running_sidecar(world.config()), channel_to(world.socket) as channel:
        alerts = await watch(channel)
        tap = await connect(channel)
        for handle, tenant in enumerate(("zoo", "", "acme-eu"), 1):
            await fire(tap, handle, tenant)
        alert = await next_alert(alerts)
        status = await status_of_loud(channel)
        other, own = await record_of(channel, "req-1"), await record_of(channel, "req-3")
        await tap.send(tap.frame([Rows(4, 0, (0, 1, 2), late=(0, 9, 9))], begins=[begin(4)], ends=[end(4, 3)]))
        kept = await record_of(channel, "req-4")
    assert (alert.external_id, alert.tenant) == ("req-3", "acme-eu")
    # Positions 1 to 4 of one request: 0 is skipped.
    assert (status.alerts, status.rows_judged) == (1, 4)
    assert (list(other.summary.fired), [peak.policy for peak in other.summary.peaks]) == ([], ["quiet"])
    assert other.summary.coverage.observed == 5
    # Whoever reads scores again, to calibrate or to replay, must not take it for a request without any.
    assert list(kept.score_columns) == ["quiet/late"]
    assert [one.name for one in kept.provenance if one.kind == "policy"] == ["quiet"]
    assert {one.kind for one in kept.provenance} == {"policy", "sae", "probe"}
    assert list(own.score_columns) == ["loud/dense", "loud/latents", "quiet/late"]
    assert {peak.policy for peak in own.summary.peaks} == {"loud", "quiet"}


async def test_an_excepted_firing_is_recorded_and_counted_and_sent_to_no_one(world: World) -> None:
    capture = "      actions: [alert, capture]\n"
    with_loud(world, rule=capture + EXCEPTION.format(name="exercise", expires="9999-01-01"))
    jsonl = world.folder / "alerts.jsonl"
    async with running_sidecar(world.config(alerts_jsonl=jsonl)), channel_to(world.socket) as channel:
        plain, everything = await watch(channel), await watch(channel, include_shadow=True)
        tap = await connect(channel)
        await fire(tap, 1, "red-team")
        await fire(tap, 2, "acme")
        told, excepted, other = await next_alert(plain), await next_alert(everything), await next_alert(everything)
        status = await status_of_loud(channel)
        record = await record_of(channel, "req-1")
        captured = await tap.next_directive()
    assert (told.external_id, told.exception, other.external_id) == ("req-2", "", "req-2")
    assert (excepted.external_id, excepted.exception) == ("req-1", "exercise")
    assert (excepted.mode, told.mode) == (Mode.MODE_SHADOW, Mode.MODE_ALERT)
    assert [alert.exception for alert in record.alerts] == ["exercise"]
    assert record.summary.mode == Mode.MODE_SHADOW
    assert list(status.rule_status) == [RuleStatus(rule="LOUD-001", alerts=1, excepted=1)]
    assert [event["external_id"] for event in read_events(jsonl)] == ["req-2"]
    # What is only recorded asks nothing of the engine.
    assert captured.handle == 2


async def test_an_expired_exception_holds_no_more_and_the_log_says_so(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    with_loud(world, rule=EXCEPTION.format(name="exercise", expires="2026-01-01"))
    with caplog.at_level(logging.WARNING, logger="monitor.sidecar"):
        async with running_sidecar(world.config()), channel_to(world.socket) as channel:
            alerts = await watch(channel)
            await fire(await connect(channel), 1, "red-team")
            alert = await next_alert(alerts)
    assert (alert.mode, alert.exception) == (Mode.MODE_ALERT, "")
    assert (
        "policy loud: exception exercise of rule LOUD-001 holds no more since 2026-01-01; ask j.doe@example.org"
        in caplog.text
    )


@pytest.mark.parametrize("asked", [True, False])
async def test_a_late_verdict_is_told_and_counted(world: World, asked: bool) -> None:
    """The frames of these tests are of a forward pass years ago."""
    with_loud(world, rule="      deadlineMs: 600000\n" + "      onTimeout: alert\n" * asked)
    async with running_sidecar(world.config()), channel_to(world.socket) as channel:
        alerts = await watch(channel)
        tap = await connect(channel)
        await fire(tap, 1)
        found = [await next_alert(alerts) for _ in range(1 + asked)]
        status = await status_of_loud(channel)
        record = await record_of(channel, "req-1")
    told = [(alert.rule, alert.position, alert.late) for alert in found]
    # Once a request, at the first row that was judged late, although it did not fire.
    assert told == [("on-timeout", 1, True)] * asked + [("LOUD-001", 4, True)]
    assert [(alert.rule, alert.late) for alert in record.alerts] == [(rule, True) for rule, _, _ in told]
    by_rule = {rule.rule: rule for rule in status.rule_status}
    assert (by_rule["LOUD-001"].late, by_rule["LOUD-001"].alerts) == (4, 1)
    assert status.alerts == 1 + asked


async def test_what_was_dropped_is_told_at_the_end(world: World, caplog: pytest.LogCaptureFixture) -> None:
    with_loud(world, spec="  onDrop: {threshold: 0.4}\n")
    full = GapReason.GAP_REASON_QUEUE_FULL
    with caplog.at_level(logging.WARNING, logger="monitor.sidecar"):
        async with running_sidecar(world.config()), channel_to(world.socket) as channel:
            alerts = await watch(channel)
            tap = await connect(channel)
            for handle, dropped in ((1, 2), (2, 3)):
                gap = Gap(handle=handle, first_position=3, count=dropped, reason=full)
                await tap.send(
                    tap.frame([Rows(handle, 0, (0, 1, 2))], begins=[begin(handle)]),
                    tap.frame(gaps=[gap], ends=[end(handle, 3 + dropped)]),
                )
            alert = await next_alert(alerts)
            record = await record_of(channel, "req-2")
            status = await status_of_loud(channel)
    # Two of five is not more than 0.4.
    assert (alert.external_id, alert.rule, alert.position, alert.dropped_positions) == ("req-2", "on-drop", 3, 3)
    assert alert.mode == Mode.MODE_ALERT
    assert list(record.summary.fired) == ["loud/on-drop"]
    assert status.alerts == 1
    assert "more was dropped than policy loud bears: 3 of 6 positions of req-2-x1" in caplog.text
    assert "req-1-x1" not in caplog.text


async def test_reasoning_is_a_phase_of_alerts_and_transcripts(world: World) -> None:
    tokenizer = json.loads((world.tokenizer / "tokenizer.json").read_text())
    more = [{"content": word, "id": 20 + index} for index, word in enumerate(("<think>", "</think>"))]
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    tokenizer["added_tokens"] += [{**token, **flags} for token in more]
    (world.tokenizer / "tokenizer.json").write_text(json.dumps(tokenizer))
    with_loud(world, match="match: {phases: [reasoning]}")
    async with running_sidecar(world.config()), channel_to(world.socket) as channel:
        alerts = await watch(channel)
        tap = await connect(channel)
        tokens = (3, 20, 4, 21, 5)
        # Everything is loud; only reasoning is judged.
        await tap.send(
            tap.frame([Rows(1, 0, (0, 1, 2), dense=(9, 9, 9))], begins=[begin(1)]),
            *(tap.frame([Rows(1, 3 + index, (token,), dense=(9,))]) for index, token in enumerate(tokens)),
            tap.frame(ends=[end(1, 8)]),
        )
        alert = await next_alert(alerts)
        record = await record_of(channel, "req-1")
    prompt, reasoning, response = Phase.PHASE_PROMPT, Phase.PHASE_REASONING, Phase.PHASE_RESPONSE
    assert [token.phase for token in record.tokens] == [prompt] * 3 + [response] + [reasoning] * 3 + [response] * 2
    # The markers belong to it.
    assert (alert.position, alert.phase) == (4, reasoning)
