"""What the commands print: alerts as lines, generations as transcripts. Alerts and records come from a real sidecar."""

from __future__ import annotations

import asyncio
import gc
import io
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from fake_tap import FakeTap, Rows, begin, connect, end
from rich.console import Console
from sidecar_kit import World, channel_to, running_sidecar
from support.command import Command

from monitor.cli.printable import printable
from monitor.cli.render import alert_line, coverage_words, render_generation
from monitor.cli.sidecar import SWITCH_SECONDS
from monitor.cli.transcript import Scale
from monitor.errors import FeaturewatchError
from monitor.v1.alerts_pb2 import Alert, WatchAlertsRequest, WatchAlertsResponse
from monitor.v1.alerts_pb2_grpc import AlertServiceServicer, add_AlertServiceServicer_to_server
from monitor.v1.coverage_pb2 import Coverage
from monitor.v1.generations_pb2 import GenerationRecord, GetGenerationRequest
from monitor.v1.generations_pb2_grpc import GenerationServiceStub
from monitor.v1.tap_pb2 import Gap, GapReason


async def traffic(tap: FakeTap) -> None:
    """One flagged request with a gap, one that is not flagged, one flagged whose policy withholds content."""
    cached = Gap(handle=1, first_position=0, count=2, reason=GapReason.GAP_REASON_PREFIX_CACHE)
    await tap.send(
        tap.frame([Rows(1, 2, (2, 5, 8), dense=(0.2, 1.2, 0.1))], begins=[begin(1, (0, 1, 2, 5, 8))], gaps=[cached]),
        tap.frame([Rows(1, 5, (6,), dense=(0.3,))]),
        tap.frame([Rows(1, 6, (3,), dense=(2.5,), explosives=(4.25,))]),
        tap.frame([Rows(1, 7, (4,), dense=(9,))]),
        tap.frame([Rows(2, 0, (0, 1, 2))], begins=[begin(2)]),
        tap.frame([Rows(3, 0, (0, 1, 2), late=(0, 0, 5))], begins=[begin(3)]),
        tap.frame(ends=[end(1, 8), end(2, 3), end(3, 3)]),
    )


async def judged(world: World) -> dict[str, GenerationRecord]:
    async with running_sidecar(world.config()), channel_to(world.socket) as channel:
        await traffic(await connect(channel))
        stub = GenerationServiceStub(channel)
        found = {}
        for id_ in ("req-1", "req-2", "req-3"):
            found[id_] = (await stub.GetGeneration(GetGenerationRequest(id=id_))).generation
        return found


@pytest.fixture
def records(world: World) -> dict[str, GenerationRecord]:
    return asyncio.run(judged(world))


def test_frames_wait_little_for_the_interpreter_and_its_garbage_collector_while_policies_are_compiled(
    world: World, featurewatch: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Stopped:
        def __init__(self, _: object) -> None:
            self.frozen = gc.get_freeze_count()

        async def start(self) -> None:
            found.append((sys.getswitchinterval(), gc.get_freeze_count() - self.frozen))
            raise FeaturewatchError("sidecar", "this test does not start it", "nothing")

    found, before = list[tuple[float, int]](), sys.getswitchinterval()
    monkeypatch.setattr("monitor.cli.sidecar.Sidecar", Stopped)
    try:
        assert featurewatch("sidecar", *world.arguments())[0] == 2
    finally:
        sys.setswitchinterval(before)
        gc.unfreeze()
    ((seconds, frozen),) = found
    assert seconds == pytest.approx(SWITCH_SECONDS)
    assert frozen > 0, "what was read at the start is no business of the collector"


def plain(renderable: object, colour: bool = False) -> str:
    system = "truecolor" if colour else None
    console = Console(file=io.StringIO(), width=150, color_system=system, force_terminal=colour)
    console.print(renderable, highlight=False)
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


def test_a_transcript_without_colour_says_all_with_marks(records: dict[str, GenerationRecord]) -> None:
    shown = plain(render_generation(records["req-1"]))
    lines = [line.rstrip() for line in shown.splitlines()]
    assert lines[0] == "FLAGGED high by loud/LOUD-001 (mode alert)"
    assert "coverage   6 of 8 positions judged, 2 never seen by the tap" in lines
    legend = "Tokens: own score of loud/dense, warn 1, fire 2: ‹warn› «fire» «far above fire!» ~not observed~"
    assert f"{legend}  ◀ a rule fired here" in lines
    prompt = lines.index("Prompt (5 tokens)")
    # The word-level tokenizer of the test puts blanks between words.
    assert lines[prompt + 1].replace(" ", "") == "~<s>make~a‹please›⏎"
    response = lines.index("Response (4 tokens)")
    assert lines[response + 1].replace(" ", "") == "sure«bomb»◀LOUD-001«cake!»~<e>~"
    assert any(line.startswith("loud/LOUD-001 fired at token 6 “bomb” in the response, ") for line in lines)
    assert any(line.split() == ["dense", "fire", "2.5", "2.5", "1", "2", "0.5"] for line in lines)
    assert any(line.split() == ["resid_post.3/4", "4.25", "+4.25", "explosives"] for line in lines)
    assert "Coverage: 8 positions = 6 judged + 0 restored + 0 dropped + 2 unseen" in lines
    assert "  positions 0 to 1: unseen: prefix cache" in lines
    sae = next(entry for entry in records["req-1"].provenance if entry.kind == "sae")
    assert any(sae.name in line and f"sha256:{sae.sha256[:16]}" in line for line in lines)


def test_a_transcript_in_colour_grades_tokens_by_score(records: dict[str, GenerationRecord]) -> None:
    shown = plain(render_generation(records["req-1"]), colour=True)
    styles = {"please": "48;2;252;146;114", "bomb": "48;2;222;45;38", "cake": "48;2;153;0;13", "make": "2;3;4"}
    for word, style in styles.items():
        token = next(part for part in shown.split("\x1b[")[1:] if part.endswith(word))
        assert style in token.partition("m")[0]
    assert "«" not in shown


def test_withheld_content_is_told_and_scores_stay(records: dict[str, GenerationRecord]) -> None:
    shown = plain(render_generation(records["req-3"]))
    assert "content    withheld: record.content is none, scores are kept" in shown
    assert "▪▪«▪!»◀ QUIET-001" in shown
    assert "make" not in shown


def test_an_unflagged_generation_shows_its_summary(records: dict[str, GenerationRecord]) -> None:
    shown = plain(render_generation(records["req-2"]))
    assert shown.startswith("not flagged\n")
    assert "loud/dense" in shown
    assert "note: nothing flagged this generation" in shown


def test_an_alert_is_one_readable_line(records: dict[str, GenerationRecord]) -> None:
    line = alert_line(records["req-1"].alerts[0]).plain
    assert "HIGH     loud/LOUD-001  req-1  token 6 “bomb” in response  dense 2.5 ≥ fire 2  loud.dense" in line
    shadow = alert_line(records["req-3"].alerts[0]).plain
    assert "LOW      quiet/QUIET-001 (shadow)  req-3  token 2 (text withheld) in prompt" in shadow
    assert "“late latent”" in shadow
    assert alert_line(Alert()).plain


def test_tokens_cannot_steer_the_terminal() -> None:
    hostile = "\x1b]0;owned\x07\x1b[31m\u202etxt\r\n"
    shown = printable(hostile)
    assert shown == "\\u001b]0;owned\\u0007\\u001b[31m\\u202etxt\\u000d⏎\n"
    assert printable("naïve 🙂 日本") == "naïve 🙂 日本"


def test_colours_follow_the_thresholds() -> None:
    scale = Scale(0, "d", warn=1.0, fire=2.0)
    assert [scale.level(score) for score in (float("nan"), -5, 0.4, 0.5, 1.0, 2.0, 2.9, 3.0)] == [
        0,
        0,
        0,
        1,
        2,
        3,
        3,
        4,
    ]
    flat = Scale(0, "d", warn=3.0, fire=3.0)
    assert [flat.level(score) for score in (2.8, 2.9, 3.0, 3.3)] == [0, 1, 3, 4]


def test_coverage_in_words() -> None:
    assert coverage_words(Coverage(positions=5, observed=5)) == "all 5 positions judged"
    told = coverage_words(Coverage(positions=9, observed=5, dropped=3, unseen=1))
    assert told == "5 of 9 positions judged, 1 never seen by the tap, 3 dropped on the way"
    assert "do not add up" in coverage_words(Coverage(positions=9, observed=5))


def test_audit_reads_the_store_without_a_sidecar(
    world: World, records: dict[str, GenerationRecord], featurewatch: Command
) -> None:
    store = ("--store", str(world.folder / "audit.sqlite"))
    assert len(records) == 3
    code, out, _ = featurewatch("audit", "list", *store)
    assert code == 0
    assert [line.split()[3] for line in out.splitlines() if "req-" in line] == ["req-3", "req-1"]
    code, out, _ = featurewatch("audit", "list", "--json", *store)
    assert [json.loads(line)["external_id"] for line in out.splitlines()] == ["req-3", "req-1"]
    code, out, _ = featurewatch("audit", "show", "req-1", *store)
    assert code == 0
    assert "FLAGGED high by loud/LOUD-001" in out
    code, out, _ = featurewatch("audit", "show", "req-1", "--json", *store)
    assert json.loads(out)["provenance"][0]["sha256"] == records["req-1"].provenance[0].sha256
    code, _, err = featurewatch("audit", "show", "req", *store)
    assert code == 2
    assert "2 generations match" in err
    code, _, err = featurewatch("audit", "list", "--all", *store)
    assert code == 2
    assert "a store holds flagged generations only" in err
    code, _, err = featurewatch("audit", "list", "--sidecar", "unix:/nowhere.sock", *store)
    assert "only one of them can be read" in err


@pytest.mark.parametrize("command", [("audit", "list"), ("audit", "show", "x"), ("alerts", "watch")])
def test_a_sidecar_that_is_not_there_is_told(world: World, featurewatch: Command, command: tuple[str, ...]) -> None:
    code, _, err = featurewatch(*command, "--sidecar", f"unix:{world.socket}")
    assert code == 2
    assert f"sidecar at unix:{world.socket}: nothing answers there" in err
    assert "featurewatch sidecar" in err


class MuteAlertService(AlertServiceServicer):
    """Takes calls and never answers."""

    def __init__(self) -> None:
        self.ended = threading.Event()

    def WatchAlerts(  # noqa: N802
        self, request: WatchAlertsRequest, context: grpc.ServicerContext
    ) -> Iterator[WatchAlertsResponse]:
        assert self.ended.wait(60)
        yield from ()


def test_what_listens_but_does_not_answer_is_told(
    world: World, featurewatch: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("monitor.cli.alerts._CONNECT_SECONDS", 0.2)
    mute = MuteAlertService()
    server = grpc.server(ThreadPoolExecutor(1))
    add_AlertServiceServicer_to_server(mute, server)
    server.add_insecure_port(f"unix:{world.socket}")
    server.start()
    try:
        code, _, err = featurewatch("alerts", "watch", "--sidecar", f"unix:{world.socket}")
    finally:
        mute.ended.set()
        server.stop(None)
    assert code == 2
    assert f"sidecar at unix:{world.socket}: something listens there, but no alert service answered within 0.2 s" in err


async def test_watching_survives_a_restart_of_the_sidecar(world: World) -> None:
    command = [sys.executable, "-m", "monitor.cli.main", "alerts", "watch", "--sidecar", f"unix:{world.socket}"]
    async with channel_to(world.socket) as channel:
        async with running_sidecar(world.config()):
            watcher = await asyncio.create_subprocess_exec(
                *command, "--include-shadow", "--json", stdout=subprocess.PIPE, stderr=subprocess.PIPE
            )
            assert watcher.stderr is not None
            assert watcher.stdout is not None
            try:
                assert b"Watching" in await watcher.stderr.readline()
                await traffic(await connect(channel))
                first = [json.loads(await watcher.stdout.readline()) for _ in range(2)]
            except BaseException:
                watcher.kill()
                raise
        assert b"shut down; waiting" in await watcher.stderr.readline()
        async with running_sidecar(world.config()):
            assert b"Connected" in await watcher.stderr.readline()
            await traffic(await connect(channel))
            again = json.loads(await watcher.stdout.readline())
        watcher.kill()
        await watcher.wait()
    assert [event["rule"] for event in first] == ["LOUD-001", "QUIET-001"]
    # The same event judged again has the same id, so receivers see it once.
    assert again["event_id"] == first[0]["event_id"]
