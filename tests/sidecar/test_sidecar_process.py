"""The sidecar as a process of its own: killed, restarted, terminated, started where it must not. The tap is a fake."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest
from fake_tap import Rows, begin, connect, end, hello
from grpc_health.v1 import health_pb2, health_pb2_grpc
from sidecar_kit import World, channel_to, read_events
from support.command import Command

from monitor.v1.generations_pb2 import GetGenerationRequest, ListGenerationsRequest
from monitor.v1.generations_pb2_grpc import GenerationServiceStub
from monitor.v1.tap_pb2 import Gap, GapReason

COMMAND = [sys.executable, "-m", "monitor.cli.main", "sidecar"]
Process = subprocess.Popen[bytes]
Refused = Callable[..., str]


@contextmanager
def started(world: World, *more: str) -> Iterator[Process]:
    with (world.folder / "sidecar.log").open("ab") as log:
        home = os.environ | {"FEATUREWATCH_HOME": str(world.folder)}
        process = subprocess.Popen([*COMMAND, *world.arguments(), *more], stdout=log, stderr=log, env=home)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def refused(featurewatch: Command) -> Refused:
    """Runs `featurewatch sidecar` with arguments that it must refuse, and returns what it says."""

    def run(*arguments: str) -> str:
        code, _, said = featurewatch("sidecar", *arguments)
        assert code == 2
        return said

    return run


async def serving(channel: grpc.aio.Channel) -> None:
    await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), wait_for_ready=True, timeout=60)


async def exit_code(process: Process) -> int:
    return await asyncio.to_thread(process.wait, 30)


async def test_sigkill_and_restart_resume_judging_and_count_the_gap(world: World) -> None:
    jsonl = world.folder / "alerts.jsonl"  # the default, below FEATUREWATCH_HOME
    async with channel_to(world.socket) as channel:
        with started(world) as first:
            tap = await connect(channel)
            await tap.send(
                tap.frame([Rows(1, 0, (0, 1, 2), dense=(0, 0, 3))], begins=[begin(1)]),
                tap.frame([Rows(2, 0, (0, 1, 2))], begins=[begin(2)]),
            )
            # The evidence of what fired is in the store before the request ends.
            generations = GenerationServiceStub(channel)
            before = (await generations.GetGeneration(GetGenerationRequest(id="req-1"))).generation
            assert before.summary.end_unix_nanos == 0
            first.send_signal(signal.SIGKILL)
            first.wait()
    assert world.socket.exists(), "a killed process leaves its socket file"
    with started(world) as second:
        # A channel of its own: that to the killed process may still be finding out.
        async with channel_to(world.socket) as channel:
            generations = GenerationServiceStub(channel)
            back = await connect(channel, hello(last_session_id=tap.welcome.session_id))
            assert back.welcome.session_id != tap.welcome.session_id
            assert back.welcome.last_seq == 0
            back.frame.seq = 7
            lost = GapReason.GAP_REASON_SIDECAR_LOST
            away = GapReason.GAP_REASON_QUEUE_FULL
            await back.send(
                back.frame(
                    [Rows(2, 5, (3,), dense=(5,))],
                    begins=[begin(1, resumed=True), begin(2, resumed=True)],
                    gaps=[
                        Gap(handle=1, first_position=0, count=3, reason=lost),
                        Gap(handle=2, first_position=0, count=3, reason=lost),
                        Gap(handle=2, first_position=3, count=2, reason=away),
                    ],
                ),
                back.frame(ends=[end(1, 3), end(2, 6)]),
            )
            record = (await generations.GetGeneration(GetGenerationRequest(id="req-2"))).generation
            listed = (await generations.ListGenerations(ListGenerationsRequest())).generations
            second.send_signal(signal.SIGTERM)
            assert await exit_code(second) == 0
    coverage = record.summary.coverage
    assert (coverage.observed, coverage.dropped, coverage.positions) == (1, 5, 6)
    # Both flagged generations are on record: the one of the killed process as far as it got.
    assert sorted(summary.external_id for summary in listed) == ["req-1", "req-2"]
    assert [event["external_id"] for event in read_events(jsonl)] == ["req-1", "req-2"]
    assert not world.socket.exists()


async def test_sigterm_says_not_serving_first_and_saves_what_is_live(world: World) -> None:
    jsonl = world.folder / "alerts.jsonl"
    async with channel_to(world.socket) as channel:
        with started(world) as process:
            await serving(channel)
            assert stat.S_IMODE(world.socket.stat().st_mode) == 0o600
            health = health_pb2_grpc.HealthStub(channel).Watch(
                health_pb2.HealthCheckRequest(service="monitor.v1.TapService")
            )
            assert (await health.read()).status == health_pb2.HealthCheckResponse.SERVING
            tap = await connect(channel)
            await tap.send(tap.frame([Rows(1, 0, (0, 1, 2), dense=(0, 0, 3))], begins=[begin(1)]))
            process.send_signal(signal.SIGTERM)
            assert (await health.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
            assert await tap.call.read() is grpc.aio.EOF
            assert await exit_code(process) == 0
    assert len(read_events(jsonl)) == 1
    shown = subprocess.run(
        [
            sys.executable,
            "-m",
            "monitor.cli.main",
            "audit",
            "show",
            "req-1",
            "--store",
            str(world.folder / "audit.sqlite"),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert shown.returncode == 0, shown.stderr
    assert "the sidecar shut down before it ended" in shown.stdout


def test_a_socket_in_use_is_refused_and_a_stale_one_replaced(world: World, refused: Refused) -> None:
    with socket.socket(socket.AF_UNIX) as living:
        living.bind(str(world.socket))
        living.listen()
        said = refused(*world.arguments())
    assert f"socket {world.socket}: another process listens on it. Stop that sidecar" in said
    # The listener is closed now; its file is still there. An address that is named twice is one.
    with started(world, "--listen", f"unix:{world.socket}") as process:
        deadline = time.monotonic() + 60
        while not accepts(world.socket):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)


def accepts(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(path)) == 0


def test_addresses_that_may_not_be_used_are_refused(world: World, refused: Refused) -> None:
    arguments = world.arguments()[2:]
    world.socket.write_text("not a socket")
    assert "something that is no socket is there" in refused("--listen", f"unix:{world.socket}", *arguments)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        said = refused("--listen", f"127.0.0.1:{port}", *arguments)
    assert f"address 127.0.0.1:{port} (Address already in use)" in said
    said = refused("--listen", "0.0.0.0:7710", *arguments)
    assert "TCP address 0.0.0.0:7710: other machines can reach it" in said
    assert "--insecure-tcp" in said


def test_bad_policies_are_all_named_and_nothing_starts(world: World, refused: Refused) -> None:
    (world.policies / "loud.yaml").write_text(
        (world.policies / "loud.yaml").read_text().replace("warn: 1,", "warn: one,")
    )
    text = (world.policies / "quiet.yaml").read_text()
    (world.policies / "quiet.yaml").write_text(text.replace("index: 1,", "index: 4912,"))
    (world.policies / "other.yaml").write_text(text.replace("resid_post.5", "resid_post.6").replace("quiet", "other"))
    said = refused(*world.arguments())
    assert "loud.yaml:12 spec.detectors[0].threshold.warn" in said
    assert "4912" in said
    assert "latents 0 to 11" in said
    assert "tiny/resid_post.6" in said
    assert "problems: 3; nothing was started" in said
    assert not world.socket.exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (
            ("--policies", "/nonexistent"),
            "error /nonexistent:1: No such file or directory — it must be a readable text file",
        ),
        (("--store", "/proc/nowhere/audit.sqlite"), "audit store /proc/nowhere/audit.sqlite"),
        (("--tokenizer", "/nonexistent"), "tokenizer /nonexistent/tokenizer.json (No such file or directory)"),
        (("--listen", "unix:"), "address 'unix:'"),
        (("--redis", "http://x"), "Redis URL 'http://x'"),
    ],
)
def test_bad_options_are_refused(world: World, refused: Refused, arguments: tuple[str, ...], says: str) -> None:
    assert says in refused(*world.arguments(), *arguments)
