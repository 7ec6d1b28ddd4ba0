"""The services that clients call, over a real server. The tap is a fake that speaks the protocol."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from typing import Any

import grpc
import numpy as np
import pytest
from fake_tap import FakeTap, Rows, begin, connect, end
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from sidecar_kit import LOUD, World, channel_to, read_events, running_sidecar

from monitor.errors import FeaturewatchError
from monitor.policy import Policy, parse_policy
from monitor.rpc import Target, call_error
from monitor.rpc.errors import error_info
from monitor.sae import Catalog, DenseProbe, HookPoint, save_dense_probe
from monitor.sidecar import policy_service
from monitor.sidecar.alert_hub import AlertHub, Watcher
from monitor.sidecar.policy_book import PolicyBook
from monitor.v1.alerts_pb2 import Alert, Mode, Severity, WatchAlertsRequest
from monitor.v1.alerts_pb2_grpc import AlertServiceStub
from monitor.v1.generations_pb2 import GetGenerationRequest, ListGenerationsRequest
from monitor.v1.generations_pb2_grpc import GenerationServiceStub
from monitor.v1.policies_pb2 import CheckPolicyRequest, GetPolicyRequest, ListPoliciesRequest
from monitor.v1.policies_pb2_grpc import PolicyServiceStub
from monitor.v1.tap_pb2 import Heartbeat, StreamRequest

SERVICES = ("TapService", "AlertService", "PolicyService", "GenerationService")


async def some_traffic(tap: FakeTap) -> None:
    """Requests 1 to 6; the even ones are flagged, 6 is still running."""
    for handle in range(1, 7):
        name = f"chatcmpl-{handle}{'a' * handle}"
        dense = (0, 0, 3) if handle % 2 == 0 else (0, 0, 0)
        await tap.send(tap.frame([Rows(handle, 0, (0, 1, 2), dense=dense)], begins=[begin(handle, request_id=name)]))
    await tap.send(tap.frame(ends=[end(handle, 3) for handle in range(1, 6)]))


async def test_health_and_reflection(world: World) -> None:
    async with running_sidecar(world.config()), channel_to(world.socket) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        for name in ("", *(f"monitor.v1.{service}" for service in SERVICES)):
            answer = await health.Check(health_pb2.HealthCheckRequest(service=name))
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
        call = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo()
        await call.write(reflection_pb2.ServerReflectionRequest(list_services=""))
        listed = {service.name for service in (await call.read()).list_services_response.service}
    assert {f"monitor.v1.{service}" for service in SERVICES} <= listed
    assert "grpc.health.v1.Health" in listed


async def test_tcp_on_loopback_serves_too(world: World) -> None:
    listen = (Target(path=world.socket), Target(host="127.0.0.1", port=0))
    async with running_sidecar(world.config(listen=listen)) as sidecar:
        port = sidecar.listening[1].port
        assert port
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            listed = await PolicyServiceStub(channel).ListPolicies(ListPoliciesRequest())
    assert [policy.name for policy in listed.policies] == ["loud", "quiet"]


async def test_live_recent_and_stored_generations_are_one_list(world: World) -> None:
    async with running_sidecar(world.config()), channel_to(world.socket) as channel:
        generations = GenerationServiceStub(channel)
        await some_traffic(await connect(channel))
        flagged = await generations.ListGenerations(ListGenerationsRequest())
        everything = await generations.ListGenerations(ListGenerationsRequest(include_unflagged=True))
        pages, token = [], ""
        while True:
            request = ListGenerationsRequest(include_unflagged=True, page_size=2, page_token=token)
            page = await generations.ListGenerations(request)
            pages.append([summary.external_id for summary in page.generations])
            if not (token := page.next_page_token):
                break
    assert [summary.external_id[:10] for summary in flagged.generations] == ["chatcmpl-6", "chatcmpl-4", "chatcmpl-2"]
    assert [bool(summary.end_unix_nanos) for summary in flagged.generations] == [False, True, True]
    names = [summary.external_id for summary in everything.generations]
    assert [name[:10] for name in names] == [f"chatcmpl-{handle}" for handle in range(6, 0, -1)]
    assert pages == [names[:2], names[2:4], names[4:]]


async def test_one_generation_is_found_by_any_of_its_ids(world: World) -> None:
    async with running_sidecar(world.config()), channel_to(world.socket) as channel:
        generations = GenerationServiceStub(channel)
        await some_traffic(await connect(channel))
        stored = (await generations.GetGeneration(GetGenerationRequest(id="chatcmpl-4"))).generation
        by_generation = await generations.GetGeneration(GetGenerationRequest(id=stored.summary.generation_id))
        by_engine_id = await generations.GetGeneration(GetGenerationRequest(id=stored.summary.request_id))
        live = (await generations.GetGeneration(GetGenerationRequest(id="chatcmpl-6"))).generation
        unflagged = (await generations.GetGeneration(GetGenerationRequest(id="chatcmpl-3"))).generation
        errors = {}
        for id_ in ("chatcmpl", "nobody", ""):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await generations.GetGeneration(GetGenerationRequest(id=id_))
            errors[id_] = caught.value
    assert by_generation.generation.summary == by_engine_id.generation.summary == stored.summary
    assert live.summary.end_unix_nanos == 0
    assert live.tokens[1].text.strip() == "make"
    assert list(unflagged.tokens) == []
    assert unflagged.notes[0].startswith("nothing flagged this generation")
    assert errors["chatcmpl"].code() is grpc.StatusCode.INVALID_ARGUMENT
    assert error_info(errors["chatcmpl"]).reason == "AMBIGUOUS_ID"  # type: ignore[union-attr]
    assert "6 generations match" in errors["chatcmpl"].details()  # type: ignore[operator]
    assert errors["nobody"].code() is grpc.StatusCode.NOT_FOUND
    told = call_error(errors["nobody"], Target.parse(f"unix:{world.socket}"))
    assert told.subject == "generation 'nobody'"
    assert "audit list --all" in told.remedy
    assert errors[""].code() is grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize(
    ("request_", "says"),
    [
        (ListGenerationsRequest(page_size=5000), "page_size 5000: it is at most 1000"),
        (ListGenerationsRequest(page_token="yesterday"), "page token 'yesterday'"),
    ],
)
async def test_bad_list_requests_are_refused(world: World, request_: ListGenerationsRequest, says: str) -> None:
    async with running_sidecar(world.config()), channel_to(world.socket) as channel:
        with pytest.raises(grpc.aio.AioRpcError, match=says) as caught:
            await GenerationServiceStub(channel).ListGenerations(request_)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_store_that_fails_is_told_as_unavailable(world: World) -> None:
    generations: list[Any] = []
    async with running_sidecar(world.config()), channel_to(world.socket) as channel:
        await some_traffic(await connect(channel))
        stub = GenerationServiceStub(channel)
        await stub.ListGenerations(ListGenerationsRequest())
        with sqlite3.connect(world.folder / "audit.sqlite") as store:
            store.execute("DROP TABLE generations")
        for call in (
            stub.ListGenerations(ListGenerationsRequest()),
            stub.GetGeneration(GetGenerationRequest(id="chatcmpl-4")),
        ):
            with pytest.raises(grpc.aio.AioRpcError, match="no such table") as caught:
                await call
            generations.append((caught.value.code(), error_info(caught.value).reason))  # type: ignore[union-attr]
    assert generations == [(grpc.StatusCode.UNAVAILABLE, "STORE_FAILED")] * 2


async def test_waiting_for_the_writer_leaves_the_threads_of_others_free(world: World) -> None:
    async with running_sidecar(world.config()) as sidecar, channel_to(world.socket) as channel:
        names: list[str] = []
        flush = sidecar._writer.flush

        def noted() -> bool:
            names.append(threading.current_thread().name)
            return flush()

        sidecar._writer.flush = noted  # type: ignore[method-assign, assignment]
        await GenerationServiceStub(channel).ListGenerations(ListGenerationsRequest())
    assert names
    assert all(name.startswith("flush") for name in names)


async def test_a_time_beyond_the_store_does_not_lose_the_record(world: World) -> None:
    async with running_sidecar(world.config()), channel_to(world.socket) as channel:
        tap = await connect(channel)
        late, last = begin(1), end(1, 3)
        late.start_unix_nanos = last.end_unix_nanos = (1 << 64) - 1
        await tap.send(tap.frame([Rows(1, 0, (0, 1, 2), dense=(0, 0, 3))], begins=[late], ends=[last]))
        listed = await GenerationServiceStub(channel).ListGenerations(ListGenerationsRequest())
    assert [summary.start_unix_nanos for summary in listed.generations] == [(1 << 63) - 1]


async def test_policies_say_what_they_did(world: World) -> None:
    async with running_sidecar(world.config()), channel_to(world.socket) as channel:
        stub = PolicyServiceStub(channel)
        tap = await connect(channel)
        await some_traffic(tap)
        heartbeat = Heartbeat(steps=9, steps_fired=8, dropped_rows=3, errors=1, unreported_requests=2)
        await tap.call.write(StreamRequest(heartbeat=heartbeat))
        await tap.send(tap.frame())
        listed = await stub.ListPolicies(ListPoliciesRequest())
        got = await stub.GetPolicy(GetPolicyRequest(name="loud"))
        with pytest.raises(grpc.aio.AioRpcError, match="this sidecar has loud, quiet"):
            await stub.GetPolicy(GetPolicyRequest(name="lout"))
    loud, quiet = listed.policies
    assert (loud.mode, loud.effective_mode, loud.reason) == (Mode.MODE_ALERT, Mode.MODE_ALERT, "")
    assert (loud.alerts, loud.shadow_alerts) == (3, 0)
    # Six requests of three rows, of which BOS is skipped.
    assert loud.rows_judged == quiet.rows_judged == 12
    assert (list(loud.detectors), list(loud.rules)) == (["dense", "latents"], ["LOUD-001"])
    assert got.source == LOUD
    status = listed.taps[0]
    assert (status.tap_id, status.model, status.connected, status.rows) == ("tap-1", "tiny", True, 18)
    assert (status.steps, status.steps_fired, status.dropped_rows, status.errors) == (9, 8, 3, 1)
    assert status.unreported_requests == 2


async def test_a_policy_text_is_checked_against_dictionaries_and_taps(world: World) -> None:
    async with running_sidecar(world.config()), channel_to(world.socket) as channel:
        stub = PolicyServiceStub(channel)
        await connect(channel)
        good = await stub.CheckPolicy(CheckPolicyRequest(source=LOUD))
        bad_text = LOUD.replace("index: 4", "index: 44").replace("warn: 1,", "warn: high,")
        unreadable = await stub.CheckPolicy(CheckPolicyRequest(source=bad_text, file="new.yaml"))
        unknown = await stub.CheckPolicy(CheckPolicyRequest(source=LOUD.replace("index: 4", "index: 44")))
    assert list(good.problems) == []
    assert [(problem.file, problem.field) for problem in unreadable.problems] == [
        ("new.yaml", "spec.detectors[0].threshold.warn")
    ]
    assert [(problem.value, problem.rule) for problem in unknown.problems] == [
        ("44", "SAE tiny/resid_post.3 has latents 0 to 11")
    ]


async def test_a_policy_text_that_is_too_large_is_refused(world: World) -> None:
    async with running_sidecar(world.config()), channel_to(world.socket) as channel:
        with pytest.raises(grpc.aio.AioRpcError, match="it is at most 65536") as caught:
            await PolicyServiceStub(channel).CheckPolicy(CheckPolicyRequest(source="a" * 65537))
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_policy_text_is_not_read_on_the_event_loop(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    readers = []

    def read(text: str, file: str) -> Policy:
        readers.append(threading.current_thread())
        return parse_policy(text, file)

    monkeypatch.setattr(policy_service, "parse_policy", read)
    async with running_sidecar(world.config()), channel_to(world.socket) as channel:
        await PolicyServiceStub(channel).CheckPolicy(CheckPolicyRequest(source=LOUD))
    assert readers
    assert threading.main_thread() not in readers


async def test_watchers_choose_policy_and_severity(world: World) -> None:
    async with channel_to(world.socket) as channel:
        async with running_sidecar(world.config()):
            stub = AlertServiceStub(channel)
            with pytest.raises(grpc.aio.AioRpcError, match="policy 'lout': this sidecar has loud, quiet"):
                await stub.WatchAlerts(WatchAlertsRequest(policies=["lout"])).read()
            severe = stub.WatchAlerts(WatchAlertsRequest(min_severity=Severity.SEVERITY_CRITICAL))
            loud = stub.WatchAlerts(WatchAlertsRequest(policies=["loud"], include_shadow=True))
            await asyncio.gather(severe.initial_metadata(), loud.initial_metadata())
            tap = await connect(channel)
            await tap.send(tap.frame([Rows(1, 0, (0, 1), late=(0, 5))], begins=[begin(1)]))
            await tap.send(tap.frame([Rows(1, 2, (2,), dense=(5,))]))
            assert (await loud.read()).alert.policy == "loud"
        # The end of the sidecar ends the streams without an error, and nothing else has come through.
        assert await loud.read() is grpc.aio.EOF
        assert await severe.read() is grpc.aio.EOF


def test_a_slow_watcher_loses_the_oldest_and_is_told() -> None:
    async def scenario() -> list[tuple[str, int]]:
        watcher = Watcher(WatchAlertsRequest(), queue_length=3)
        for number in range(7):
            watcher.offer(Alert(alert_id=str(number), mode=Mode.MODE_ALERT))
        watcher.close()
        found = []
        while (response := await watcher.next()) is not None:
            found.append((response.alert.alert_id, response.missed))
        return found

    assert asyncio.run(scenario()) == [("4", 4), ("5", 0), ("6", 0)]


def test_publishing_to_nobody_and_after_the_end() -> None:
    async def scenario() -> Any:
        hub = AlertHub()
        hub.publish(Alert(mode=Mode.MODE_ALERT))
        hub.close()
        with hub.watch(WatchAlertsRequest()) as late:
            return await late.next()

    assert asyncio.run(scenario()) is None


async def test_alerts_go_to_the_file_once_each(world: World) -> None:
    jsonl = world.folder / "alerts.jsonl"
    async with running_sidecar(world.config(alerts_jsonl=jsonl)), channel_to(world.socket) as channel:
        await some_traffic(await connect(channel))
    events = read_events(jsonl)
    assert [event["external_id"][:10] for event in events] == ["chatcmpl-2", "chatcmpl-4", "chatcmpl-6"]
    assert len({event["event_id"] for event in events}) == 3
    assert {event["mode"] for event in events} == {"alert"}


def test_probes_of_one_name_and_different_content_are_refused(world: World) -> None:

    other = world.folder / "other"
    save_dense_probe(
        DenseProbe(HookPoint(3), np.ones(8, np.float32), 0.0), other / "weights" / "loud.dense.safetensors"
    )
    (other / "again.yaml").write_text(LOUD.replace("name: loud", "name: again"))
    with pytest.raises(FeaturewatchError, match="with different content"):
        PolicyBook.load([world.policies, other], Catalog([world.zoo]))
