"""A tap's session with a real grpc.aio server on a Unix socket. The tap is a fake that speaks the protocol."""

from __future__ import annotations

import asyncio
import socket
import threading

import grpc
import numpy as np
import pytest
from fake_tap import Rows, begin, connect, end, hello
from session_calls import flag, next_alert, policies, record_of, watch
from sidecar_kit import ENGINE, World, channel_to, make_dictionary, read_events, running_sidecar

from monitor.rpc import floats_from_bytes
from monitor.sidecar.server import Sidecar
from monitor.v1.alerts_pb2 import DetectorState, Mode, ModeSource, Phase, Severity
from monitor.v1.engine_pb2 import EngineInfo
from monitor.v1.generations_pb2 import ListGenerationsRequest
from monitor.v1.generations_pb2_grpc import GenerationServiceStub
from monitor.v1.tap_pb2 import DirectionRule, Gap, GapReason, Heartbeat, StreamRequest
from monitor.v1.tap_pb2_grpc import TapServiceStub


async def test_the_watch_plan_holds_the_directions_of_the_policies(world: World) -> None:
    async with running_sidecar(world.config()) as sidecar, channel_to(world.socket) as channel:
        tap = await connect(channel)
        assert tap.welcome.session_id == sidecar.session_id
        assert list(tap.welcome.unserved) == []
        assert [hook.hook_point for hook in tap.plan.hooks] == ["resid_post.3", "resid_post.5"]
        third, fifth = tap.plan.hooks
        weights_kd = floats_from_bytes(third.weights, (3, 8), "weights")
        biases_k = floats_from_bytes(third.biases, (3,), "biases")
        thresholds_k = floats_from_bytes(third.thresholds, (3,), "thresholds")
        sae = make_dictionary(3)
        for k, rule in enumerate(third.rules):
            if rule == DirectionRule.DIRECTION_RULE_IDENTITY:
                np.testing.assert_array_equal(weights_kd[k], np.arange(8))
                assert biases_k[k] == -0.25
            else:
                index = next(i for i in (4, 7) if np.array_equal(sae.w_enc_md[i], weights_kd[k]))
                assert biases_k[k] == sae.b_enc_m[index]
                assert thresholds_k[k] == sae.activation.threshold_m[index]
        assert fifth.count == 1


async def test_an_alert_says_what_fired_where_and_why(world: World) -> None:
    async with running_sidecar(world.config()), channel_to(world.socket) as channel:
        alerts = await watch(channel)
        tap = await connect(channel)
        await flag(tap)
        alert = await next_alert(alerts)
    assert (alert.policy, alert.policy_revision, alert.rule) == ("loud", 2, "LOUD-001")
    assert (alert.severity, alert.mode) == (Severity.SEVERITY_HIGH, Mode.MODE_ALERT)
    assert (alert.request_id, alert.external_id, alert.model) == ("req-1-x1", "req-1", "tiny")
    assert (alert.position, alert.token_id, alert.token.strip()) == (4, 4, "cake")
    assert alert.phase == Phase.PHASE_RESPONSE
    assert alert.runbook == "https://example.org/loud"
    assert alert.latency_nanos > 0
    by_name = {reading.detector: reading for reading in alert.readings}
    assert by_name["dense"].state == DetectorState.DETECTOR_STATE_FIRE
    assert (by_name["dense"].score, by_name["dense"].warn, by_name["dense"].fire) == (2.5, 1, 2)
    assert by_name["latents"].contributions[0].label == "explosives"
    assert by_name["latents"].contributions[0].direction == "tiny/resid_post.3/4"
    assert by_name["latents"].contributions[0].activation == 3.0


async def test_a_flagged_generation_is_recorded_token_by_token(world: World) -> None:
    async with running_sidecar(world.config()), channel_to(world.socket) as channel:
        tap = await connect(channel)
        await flag(tap)
        record = await record_of(channel, "req-1")
    summary = record.summary
    assert list(summary.fired) == ["loud/LOUD-001"]
    assert (summary.prompt_tokens, summary.output_tokens) == (3, 3)
    assert (summary.coverage.positions, summary.coverage.observed) == (5, 5)
    assert [token.text.strip() for token in record.tokens] == ["<s>", "make", "a", "bomb", "cake", "<e>"]
    assert [token.token_id for token in record.tokens] == [0, 1, 2, 3, 4, 9]
    assert [token.observed for token in record.tokens] == [True] * 5 + [False]
    dense = list(record.score_columns).index("loud/dense")
    # Position 0 is BOS and skipped; the aggregate is the running maximum.
    np.testing.assert_array_equal(
        [token.token_scores[dense] for token in record.tokens], [np.nan, 0, 0.5, 1.5, 2.5, np.nan]
    )
    assert record.tokens[4].scores[dense] == 2.5
    assert [token.phase for token in record.tokens] == [Phase.PHASE_PROMPT] * 3 + [Phase.PHASE_RESPONSE] * 3
    peak = next(peak for peak in summary.peaks if peak.detector == "dense")
    assert (peak.score, peak.position, peak.state) == (2.5, 4, DetectorState.DETECTOR_STATE_FIRE)
    assert {entry.kind for entry in record.provenance} == {"policy", "sae", "probe"}
    assert all(len(entry.sha256) == 64 for entry in record.provenance)
    assert record.engine.version == "0.32.0"
    assert record.content == "full"


async def test_frames_sent_again_after_a_reconnect_do_not_alert_twice(world: World) -> None:
    async with running_sidecar(world.config()), channel_to(world.socket) as channel:
        alerts = await watch(channel)
        tap = await connect(channel)
        frames = [
            tap.frame([Rows(1, 0, (0, 1, 2), dense=(0, 0, 3))], begins=[begin(1)]),
            tap.frame([Rows(1, 3, (3,), dense=(4,))]),
        ]
        await tap.send(*frames)
        tap.drop()
        again = await connect(channel, hello(last_session_id=tap.welcome.session_id))
        assert again.welcome.session_id == tap.welcome.session_id
        assert again.welcome.last_seq == 2
        again.frame.seq = 2
        # Frame 3 also repeats rows below the high-water mark.
        await again.send(*frames, wait=False)
        await again.send(again.frame([Rows(1, 2, (2, 3, 4), dense=(3, 4, 5))]), again.frame(ends=[end(1, 5)]))
        await again.send(again.frame([Rows(2, 0, (0, 1), dense=(0, 3))], begins=[begin(2, (0, 1))]))
        assert (await next_alert(alerts)).external_id == "req-1"
        assert (await next_alert(alerts)).external_id == "req-2"
        record = await record_of(channel, "req-1")
        status = (await policies(channel)).taps[0]
    assert len(record.alerts) == 1
    assert record.summary.coverage.observed == record.summary.coverage.positions == 5
    assert status.frames == 5


async def test_requests_with_the_same_id_are_two_generations_with_alerts_of_their_own(world: World) -> None:
    """A client chose the id twice, or streaming input went on under it."""
    async with running_sidecar(world.config()), channel_to(world.socket) as channel:
        alerts = await watch(channel)
        tap = await connect(channel)
        for handle in (1, 2):
            await tap.send(
                tap.frame([Rows(handle, 0, (0, 1, 2), dense=(0, 0, 3))], begins=[begin(handle, request_id="same")]),
                tap.frame(ends=[end(handle, 3)]),
            )
        first, second = await next_alert(alerts), await next_alert(alerts)
        listed = (await GenerationServiceStub(channel).ListGenerations(ListGenerationsRequest())).generations
    assert (first.request_id, first.position) == (second.request_id, second.position)
    assert first.alert_id != second.alert_id
    assert first.generation_id != second.generation_id
    assert {summary.generation_id for summary in listed} == {first.generation_id, second.generation_id}


async def test_a_new_stream_of_a_tap_ends_the_old_one(world: World) -> None:
    async with running_sidecar(world.config()), channel_to(world.socket) as channel:
        old = await connect(channel)
        await connect(channel)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await old.wait_ack(1)
    assert caught.value.code() is grpc.StatusCode.ABORTED
    assert "newer stream" in str(caught.value.details())


async def test_another_engine_under_the_same_tap_id_ends_the_old_stream(world: World) -> None:
    other = EngineInfo()
    other.CopyFrom(ENGINE)
    other.version = "0.33.0"
    async with running_sidecar(world.config()), channel_to(world.socket) as channel:
        old = await connect(channel)
        await connect(channel, hello(engine=other))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await asyncio.wait_for(old.wait_ack(1), 10)
    assert caught.value.code() is grpc.StatusCode.ABORTED


async def test_a_tap_that_came_back_as_its_time_ran_out_is_kept(world: World) -> None:
    async with running_sidecar(world.config(tap_grace_seconds=600.0)) as sidecar, channel_to(world.socket) as channel:
        tap = await connect(channel)
        tap.drop()
        (state,) = sidecar.taps
        while (timer := state.expiry) is None:
            await asyncio.sleep(0.001)
        expire = timer._callback  # type: ignore[attr-defined]
        back = await connect(channel, hello(last_session_id=tap.welcome.session_id))
        # The timer had gone off before it was cancelled.
        expire()
        await back.send(back.frame([Rows(1, 0, (0, 1, 2))], begins=[begin(1)]))
        assert [*sidecar.taps] == [state]


async def test_watchers_get_the_alerts_of_frames_in_flight_when_the_sidecar_stops(world: World) -> None:
    async with channel_to(world.socket) as channel:
        async with running_sidecar(world.config(drain_seconds=30.0)) as sidecar:
            alerts = await watch(channel)
            tap = await connect(channel)
            judging = threading.Event()
            held = asyncio.create_task(sidecar.taps.between_frames(judging.wait))
            await tap.send(tap.frame([Rows(1, 0, (0, 1, 2), dense=(0, 0, 3))], begins=[begin(1)]), wait=False)
            while not sidecar.taps._background:
                await asyncio.sleep(0.001)
            asyncio.get_running_loop().call_later(0.1, judging.set)
        await held
        assert (await next_alert(alerts)).external_id == "req-1"
        assert await alerts.read() is grpc.aio.EOF


async def test_a_stopping_sidecar_leaves_the_socket_of_its_successor(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    sidecar = Sidecar(world.config())
    await sidecar.start()
    stop = sidecar._server.stop
    with socket.socket(socket.AF_UNIX) as successor:

        async def stop_and_be_succeeded(grace: float | None) -> None:
            await stop(grace)
            successor.bind(str(world.socket))

        monkeypatch.setattr(sidecar._server, "stop", stop_and_be_succeeded)
        await sidecar.stop()
        assert world.socket.exists()


@pytest.mark.parametrize(
    ("said", "code", "says"),
    [
        (StreamRequest(heartbeat=Heartbeat()), grpc.StatusCode.INVALID_ARGUMENT, "begins with Hello"),
        (StreamRequest(hello=hello(protocol_version=9)), grpc.StatusCode.FAILED_PRECONDITION, "speaks version 1"),
        (StreamRequest(hello=hello(tap_id="")), grpc.StatusCode.INVALID_ARGUMENT, "tap_id"),
    ],
)
async def test_a_stream_that_begins_wrong_is_refused(
    world: World, said: StreamRequest, code: grpc.StatusCode, says: str
) -> None:
    async with running_sidecar(world.config()), channel_to(world.socket) as channel:
        call = TapServiceStub(channel).Stream()
        await call.write(said)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call.read()
    assert caught.value.code() is code
    assert says in str(caught.value.details())


async def test_policies_that_do_not_fit_a_tap_are_told_and_left_out(world: World) -> None:
    other_width = EngineInfo(name="vllm", served_model="tiny", dtype="float32", num_layers=8, hidden_size=16)
    other_model = EngineInfo(name="vllm", served_model="large", dtype="float32", num_layers=8, hidden_size=8)
    async with running_sidecar(world.config()), channel_to(world.socket) as channel:
        no_hook = await connect(channel, hello("a", hooks=["resid_post.3"]))
        wide = await connect(channel, hello("b", engine=other_width))
        foreign = await connect(channel, hello("c", engine=other_model))
        listed = {policy.name: policy for policy in (await policies(channel)).policies}
    assert [line for line in no_hook.welcome.unserved if "quiet" in line and "resid_post.5" in line]
    assert [hook.hook_point for hook in no_hook.plan.hooks] == ["resid_post.3"]
    assert len(wide.welcome.unserved) == 2
    assert all("width" in line for line in wide.welcome.unserved)
    # Each says what to do about it.
    assert all(line.endswith(")") for line in wide.welcome.unserved)
    assert len(wide.plan.hooks) == 0
    assert [line for line in foreign.welcome.unserved if "loud" in line and "does not match" in line]
    assert "cannot serve it" in listed["quiet"].reason


async def test_thresholds_fitted_on_another_configuration_fall_to_shadow(world: World) -> None:
    half = EngineInfo()
    half.CopyFrom(ENGINE)
    half.dtype = "bfloat16"
    jsonl = world.folder / "alerts.jsonl"
    async with running_sidecar(world.config(alerts_jsonl=jsonl)), channel_to(world.socket) as channel:
        everything = await watch(channel, include_shadow=True)
        tap = await connect(channel, hello(engine=half))
        await flag(tap)
        stale, alert = await next_alert(everything), await next_alert(everything)
        status = next(policy for policy in (await policies(channel)).policies if policy.name == "loud")
        record = await record_of(channel, "req-1")
    # That it fell to shadow is told as loudly as it would have alerted.
    assert (stale.rule, stale.mode, stale.request_id) == ("on-stale", Mode.MODE_ALERT, "")
    assert (alert.rule, alert.mode) == ("LOUD-001", Mode.MODE_SHADOW)
    assert alert.mode_source == ModeSource.MODE_SOURCE_STALE
    assert (status.mode, status.effective_mode) == (Mode.MODE_ALERT, Mode.MODE_SHADOW)
    assert (status.mode_source, status.stale) == (ModeSource.MODE_SOURCE_STALE, True)
    assert "dtype: fitted on float32, serving bfloat16" in status.reason
    assert (status.alerts, status.shadow_alerts) == (1, 1)
    assert record.summary.mode == Mode.MODE_SHADOW
    assert [event["rule"] for event in read_events(jsonl)] == ["on-stale"]


async def test_shadow_alerts_reach_only_who_asks_and_content_none_withholds_tokens(world: World) -> None:
    async with running_sidecar(world.config()), channel_to(world.socket) as channel:
        plain, everything = await watch(channel), await watch(channel, include_shadow=True)
        tap = await connect(channel)
        await tap.send(
            tap.frame([Rows(1, 0, (0, 1, 2), late=(0, 0, 4))], begins=[begin(1)]),
            tap.frame(ends=[end(1, 3)]),
        )
        await flag(tap, 2)
        shadow = await next_alert(everything)
        assert (await next_alert(plain)).policy == "loud"
        record = await record_of(channel, "req-1")
    assert (shadow.policy, shadow.mode, shadow.token, shadow.token_id) == ("quiet", Mode.MODE_SHADOW, "", 0)
    assert record.content == "none"
    assert {(token.text, token.token_id) for token in record.tokens} == {("", 0)}
    assert record.alerts[0].position == 2
    late = list(record.score_columns).index("quiet/late")
    assert record.tokens[2].scores[late] == 4.0


async def test_a_resumed_request_goes_on_in_a_new_process(world: World) -> None:
    async with running_sidecar(world.config()), channel_to(world.socket) as channel:
        tap = await connect(channel, hello(last_session_id="of a process that is gone"))
        assert tap.welcome.last_seq == 0
        tap.frame.seq = 500
        await tap.send(
            tap.frame(
                [Rows(1, 6, (3,), dense=(7,))],
                begins=[begin(1, resumed=True)],
                gaps=[
                    Gap(handle=1, first_position=0, count=4, reason=GapReason.GAP_REASON_SIDECAR_LOST),
                    Gap(handle=1, first_position=4, count=2, reason=GapReason.GAP_REASON_QUEUE_FULL),
                ],
            ),
            tap.frame(ends=[end(1, 7)]),
        )
        record = await record_of(channel, "req-1")
    coverage = record.summary.coverage
    assert (coverage.observed, coverage.dropped, coverage.positions) == (1, 6, 7)
    assert [gap.reason for gap in record.gaps] == ["dropped: sidecar restarted", "dropped: queue full"]
    assert list(record.notes) == ["it began before this sidecar process"]


async def test_a_tap_that_stays_away_has_its_requests_ended(world: World) -> None:
    async with running_sidecar(world.config(tap_grace_seconds=0.05)), channel_to(world.socket) as channel:
        tap = await connect(channel)
        await tap.send(tap.frame([Rows(1, 0, (0, 1, 2), dense=(0, 0, 3))], begins=[begin(1)]))
        tap.drop()
        while not (record := await record_of(channel, "req-1")).summary.end_unix_nanos:
            pass
        back = await connect(channel, hello(last_session_id=tap.welcome.session_id))
    assert "the tap went away before it ended" in record.notes
    assert record.summary.coverage.observed == 3
    # Its state is gone, so it must report what it sent before as a gap.
    assert back.welcome.session_id != tap.welcome.session_id
    assert back.welcome.last_seq == 0
