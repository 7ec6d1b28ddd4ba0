"""The scheduler's ear for the sidecar, against a real gRPC server."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from pathlib import Path

import grpc
import pytest

from monitor.rpc import SERVER_OPTIONS, Target
from monitor.rpc.channels import open_channel
from monitor.tap.scheduler import watch as prefix_watch
from monitor.tap.scheduler.watch import PrefixWatch
from monitor.v1 import engine_pb2, tap_pb2, tap_pb2_grpc

Response = tap_pb2.WatchPrefixesResponse
ENGINE = engine_pb2.EngineInfo(model="m", prefix_block_size=16)


class Teller(tap_pb2_grpc.TapServiceServicer):
    """Sends each watcher what the test puts into `responses`; None ends the call."""

    def __init__(self, target: str) -> None:
        self.responses: queue.Queue[Response | None] = queue.Queue()
        self.requests: list[tap_pb2.WatchPrefixesRequest] = []
        self._server = grpc.server(futures.ThreadPoolExecutor(2), options=SERVER_OPTIONS)
        tap_pb2_grpc.add_TapServiceServicer_to_server(self, self._server)
        assert self._server.add_insecure_port(target), target
        self._server.start()

    def Stream(self, request_iterator, context):  # type: ignore[no-untyped-def]  # noqa: N802
        raise NotImplementedError

    def WatchPrefixes(  # noqa: N802 -- gRPC's name
        self, request: tap_pb2.WatchPrefixesRequest, context: grpc.ServicerContext
    ) -> Iterator[Response]:
        self.requests.append(request)
        while (response := self.responses.get()) is not None:
            yield response

    def stop(self) -> None:
        self.responses.put(None)
        self._server.stop(0).wait()


def eventually(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not come"
        time.sleep(0.005)


@pytest.fixture
def target(tmp_path: Path) -> str:
    return f"unix:{tmp_path}/s.sock"


@pytest.fixture
def watch(target: str) -> Iterator[PrefixWatch]:
    watch = PrefixWatch(lambda: open_channel(Target.parse(target)), ENGINE)
    watch.start()
    yield watch
    watch.close(60)
    assert "featurewatch-prefixes" not in [thread.name for thread in threading.enumerate()]


def test_what_is_told_is_known_and_what_is_taken_back_is_not(target: str, watch: PrefixWatch) -> None:
    assert (watch.active, watch.lost) == (False, True), "nobody has said yet whether prefixes are to be read again"
    teller = Teller(target)
    try:
        teller.responses.put(Response(reread=True, reset=True, added=[b"a", b"b"]))
        eventually(lambda: watch.active, "the first word")
        assert teller.requests == [tap_pb2.WatchPrefixesRequest(engine=ENGINE)]
        assert (b"a" in watch, b"b" in watch, b"c" in watch) == (True, True, False)
        teller.responses.put(Response(reread=True, added=[b"c"], removed=[b"a"]))
        eventually(lambda: b"c" in watch, "the change")
        eventually(lambda: b"a" not in watch, "the removal")
        teller.responses.put(Response(reread=True, reset=True, added=[b"d"]))
        eventually(lambda: b"d" in watch, "the new beginning")
        assert len(watch) == 1
        teller.responses.put(Response(reread=False, reset=True))
        eventually(lambda: not watch.active, "the end of reading again")
        assert (watch.lost, len(watch)) == (False, 0)
    finally:
        teller.stop()


def test_a_sidecar_that_goes_away_is_missed_and_found_again(target: str, watch: PrefixWatch) -> None:
    first = Teller(target)
    first.responses.put(Response(reread=True, reset=True, added=[b"a"]))
    eventually(lambda: watch.active, "the first word")
    first.stop()
    eventually(lambda: watch.lost, "the loss")
    assert not watch.active
    eventually(lambda: not Path(target.removeprefix("unix:")).exists(), "the end of the socket")
    second = Teller(target)
    try:
        second.responses.put(Response(reread=True, reset=True, added=[b"b"]))
        eventually(lambda: watch.active, "the second word")
        assert (b"a" in watch, b"b" in watch) == (False, True)
        assert watch.connections == 2
    finally:
        second.stop()


def test_a_sidecar_that_asks_for_nothing_is_not_missed_when_it_goes(target: str, watch: PrefixWatch) -> None:
    teller = Teller(target)
    teller.responses.put(Response(reread=False, reset=True))
    eventually(lambda: watch.connections == 1, "the first word")
    teller.stop()
    eventually(lambda: not watch.connected, "the loss")
    assert not watch.lost


def test_an_older_sidecar_asks_for_nothing(target: str, watch: PrefixWatch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefix_watch, "OLD_SIDECAR_SECONDS", 0.01)
    server = grpc.server(futures.ThreadPoolExecutor(1), options=SERVER_OPTIONS)
    assert server.add_insecure_port(target)
    server.start()
    try:
        eventually(lambda: not watch.lost, "the refusal")
        assert not watch.active
    finally:
        server.stop(0).wait()


def test_a_client_that_cannot_be_made_is_counted_and_tried_again(target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tries = iter([ValueError("unreadable certificate")])

    def channel() -> grpc.Channel:
        for error in tries:
            raise error
        return open_channel(Target.parse(target))

    teller = Teller(target)
    watch = PrefixWatch(channel, ENGINE)
    try:
        teller.responses.put(Response(reread=True, reset=True))
        watch.start()
        eventually(lambda: watch.active, "the first word")
        assert watch.errors == 1
    finally:
        watch.close(60)
        teller.stop()
