"""What becomes of verdicts: records under their generation, and nothing lost to what is wrong with another."""

from __future__ import annotations

import logging
import threading
from pathlib import Path

import pytest
from fake_tap import FrameMaker, Rows, begin, end, hello
from sidecar_kit import World, new_judge

from monitor.audit import AuditStore, AuditWriter, RecentSummaries
from monitor.sae import Catalog
from monitor.sidecar import publisher as publisher_module
from monitor.sidecar.alert_hub import AlertHub
from monitor.sidecar.evidence.desk import EvidenceDesk
from monitor.sidecar.history import HistoryPool
from monitor.sidecar.judge import TapJudge
from monitor.sidecar.plan import TapPlan
from monitor.sidecar.policy_book import PolicyBook
from monitor.sidecar.prefix.states import PrefixStates
from monitor.sidecar.publisher import Outcome, Publisher
from monitor.sidecar.records import prepare_record
from monitor.sidecar.request import LiveRequest
from monitor.sidecar.taps import Taps
from monitor.sidecar.tokenizer_cache import TokenizerCache
from monitor.v1.generations_pb2 import GenerationRecord


@pytest.fixture
def judge(plan: TapPlan) -> TapJudge:
    return new_judge(plan)


@pytest.fixture
def maker(plan: TapPlan) -> FrameMaker:
    return FrameMaker(plan.watch_plan)


def publisher(writer: AuditWriter) -> Publisher:
    return Publisher(AlertHub(), [], writer, RecentSummaries())


def generation_ids(judge: TapJudge) -> list[str]:
    return [request.identity.generation_id for request in judge.live]


def test_a_record_that_cannot_be_written_is_counted_and_its_generation_named(
    judge: TapJudge,
    maker: FrameMaker,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    store = AuditStore(tmp_path / "audit.sqlite")
    rows = [Rows(1, 0, [0, 1], dense=[0, 9]), Rows(2, 0, [0, 1], dense=[0, 9])]
    outcome = Outcome.of(judge.apply(maker(rows, begins=[begin(1, [0, 1]), begin(2, [0, 1])])), judge)
    lost, kept = generation_ids(judge)

    def put(record: GenerationRecord) -> None:
        if record.summary.generation_id == lost:
            raise ArithmeticError("put")
        AuditStore.put(store, record)

    monkeypatch.setattr(store, "put", put)
    writer = AuditWriter(store)
    with caplog.at_level(logging.ERROR):
        publisher(writer).publish(outcome, "tap")
        writer.close(timeout_seconds=60)
    assert (writer.written, writer.lost) == (1, 1)
    assert [summary.generation_id for summary in store.page(10)] == [kept]
    assert f"the record of generation {lost} is lost: not written (1 so far)" in caplog.text
    assert kept not in caplog.text


def test_a_generation_that_fires_again_and_again_waits_for_the_store_once(
    judge: TapJudge, maker: FrameMaker, tmp_path: Path
) -> None:
    gate, entered = threading.Event(), threading.Event()

    def hold() -> GenerationRecord:
        entered.set()
        assert gate.wait(60)
        return GenerationRecord()

    store = AuditStore(tmp_path / "audit.sqlite")
    writer = AuditWriter(store, max_queued=1)
    writer.submit(hold, "before")
    assert entered.wait(60)
    frames = [maker([Rows(1, 0, [0, 1], dense=[0, 9])], begins=[begin(1, [0, 1])])]
    for position in range(2, 10, 2):
        frames.append(maker([Rows(1, position, [1, 1], dense=[0, 9])]))
    frames.append(maker([Rows(1, 10, [1], dense=[0])], ends=[end(1, 11)]))
    for frame in frames:
        publisher(writer).publish(Outcome.of(judge.apply(frame), judge), "tap")
    gate.set()
    writer.close(timeout_seconds=60)
    assert (writer.written, writer.lost) == (2, 0)
    assert store.page(1)[0].coverage.positions == 11, "the latest record is the one that is kept"


def test_what_is_wrong_with_one_entry_of_a_frame_stops_no_other(
    judge: TapJudge, maker: FrameMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin_request, end_request = judge._begin, judge._end

    def failing_begin(entry: object, *rest: object) -> None:
        if entry == begin(1, [0, 1]):
            raise ArithmeticError("begin")
        begin_request(entry, *rest)  # type: ignore[arg-type]

    def failing_end(entry: object, verdicts: object) -> None:
        if entry == end(2, 2):
            raise ArithmeticError("end")
        end_request(entry, verdicts)  # type: ignore[arg-type]

    monkeypatch.setattr(judge, "_begin", failing_begin)
    monkeypatch.setattr(judge, "_end", failing_end)
    frame = maker(
        [Rows(handle, 0, [0, 1], dense=[0, 9]) for handle in (2, 3)],
        begins=[begin(handle, [0, 1]) for handle in (1, 2, 3)],
        ends=[end(2, 2), end(3, 2)],
    )
    verdicts = judge.apply(frame)
    assert [alert.external_id for alert in verdicts.alerts] == ["req-2", "req-3"]
    assert [request.identity.external_id for request in verdicts.ended] == ["req-3"]
    assert judge.problems.by_kind == {"judging failed": 2}
    assert [request.identity.external_id for request in judge.finish_all("the end").ended] == ["req-2"]
    assert judge.live == []


def test_a_record_that_cannot_be_prepared_stops_neither_alerts_nor_other_records(
    judge: TapJudge, maker: FrameMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(request: LiveRequest, judge: TapJudge) -> publisher_module.BuildRecord:
        if request.identity.external_id == "req-1":
            raise ArithmeticError("record")
        return prepare_record(request, judge)

    monkeypatch.setattr(publisher_module, "prepare_record", failing)
    rows = [Rows(handle, 0, [0, 1], dense=[0, 9]) for handle in (1, 2)]
    verdicts = judge.apply(maker(rows, begins=[begin(1, [0, 1]), begin(2, [0, 1])]))
    outcome = Outcome.of(verdicts, judge)
    assert [alert.external_id for alert in outcome.alerts] == ["req-1", "req-2"]
    assert [generation_id for generation_id, _ in outcome.records] == generation_ids(judge)[1:]
    assert judge.problems.by_kind == {"record failed": 1}


def test_one_policy_that_withholds_content_withholds_it_from_the_alerts_of_the_others(
    judge: TapJudge, maker: FrameMaker
) -> None:
    judge.apply(maker([Rows(1, 0, [0, 3], dense=[0, 9])], begins=[begin(1, [0, 3])]))
    (request,) = judge.live
    full = prepare_record(request, judge)()
    assert [(alert.policy, alert.token_id) for alert in full.alerts] == [("loud", 3)]
    judge.apply(maker([Rows(1, 2, [3], late=[9])]))
    withheld = prepare_record(request, judge)()
    assert withheld.content == "none"
    assert [(alert.policy, alert.position, alert.token_id) for alert in withheld.alerts] == [
        ("loud", 1, 0),
        ("quiet", 2, 0),
    ]
    assert request.alerts[0].token_id == 3, "what was sent stays as it was"


async def test_frames_on_their_way_to_the_judge_are_judged_before_the_end(world: World) -> None:
    store = AuditStore(world.folder / "audit.sqlite")
    writer = AuditWriter(store)
    book = PolicyBook.load([world.policies], Catalog([world.zoo]))
    cache = TokenizerCache(world.tokenizer)
    taps = Taps(
        book,
        publisher(writer),
        cache,
        PrefixStates(0),
        EvidenceDesk(book.sources, writer),
        history=HistoryPool(1 << 20, 3),
        session_id="session",
        grace_seconds=60,
    )
    tap = await taps.attach(hello())
    frame = FrameMaker(tap.plan.watch_plan)([Rows(1, 0, [0, 1], dense=[0, 9])], begins=[begin(1, [0, 1])])
    taps._background.start(taps._judge(tap, [frame]))
    await taps.close()
    writer.close(timeout_seconds=60)
    (summary,) = store.page(10)
    assert (summary.external_id, summary.coverage.observed) == ("req-1", 2)
    assert summary.end_unix_nanos
