"""Events arrive in order, again and again until taken, and never block who offers them."""

import asyncio
from pathlib import Path

import pytest
from emit_kit import FailingSink, make_event

from monitor.emit import Delivery, Event, JsonlSink, MemoryOutbox


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("monitor.emit.delivery.FIRST_PAUSE_SECONDS", 0.001)
    monkeypatch.setattr("monitor.emit.delivery.LONGEST_PAUSE_SECONDS", 0.01)


async def settled(delivery: Delivery) -> None:
    while delivery.stats.pending:
        await asyncio.sleep(0.001)
    await asyncio.sleep(0)


async def test_failed_deliveries_are_repeated_in_order_and_counted() -> None:
    sink = FailingSink(failures=3)
    delivery = Delivery(sink, MemoryOutbox())
    delivery.start()
    for number in range(5):
        delivery.offer(make_event(number))
    await settled(delivery)
    await delivery.close()
    assert sink.taken == [f"alert-{number}" for number in range(5)]
    assert sink.closed
    assert (delivery.stats.delivered, delivery.stats.failed_attempts, delivery.stats.dropped) == (5, 3, 0)


async def test_a_full_outbox_drops_new_events_and_counts_them() -> None:
    sink = FailingSink()
    sink.down = True
    delivery = Delivery(sink, MemoryOutbox(max_events=3))
    delivery.start()
    for number in range(5):
        delivery.offer(make_event(number))
    assert (delivery.stats.pending, delivery.stats.dropped) == (3, 2)
    sink.down = False
    await settled(delivery)
    assert sink.taken == ["alert-0", "alert-1", "alert-2"]
    await delivery.close()


async def test_an_unexpected_error_of_a_sink_does_not_end_the_delivery(caplog: pytest.LogCaptureFixture) -> None:
    class Surprising(FailingSink):
        async def deliver(self, event: Event) -> None:
            if self.attempts < 2:
                self.attempts += 1
                raise LookupError("no such thing")
            await super().deliver(event)

        async def close(self) -> None:
            raise ConnectionResetError("reset by peer")

    sink = Surprising()
    delivery = Delivery(sink, MemoryOutbox())
    delivery.start()
    delivery.offer(make_event(1))
    delivery.offer(make_event(2))
    await settled(delivery)
    assert sink.taken == ["alert-1", "alert-2"]
    assert (delivery.stats.delivered, delivery.stats.failed_attempts) == (2, 2)
    assert caplog.text.count("Traceback") == 1, "the traceback, once for all attempts"
    await delivery.close()
    assert "not closed in order: reset by peer" in caplog.text


async def test_closing_is_bounded_when_the_sink_is_down() -> None:
    sink = FailingSink()
    sink.down = True
    delivery = Delivery(sink, MemoryOutbox())
    delivery.start()
    delivery.offer(make_event())
    await delivery.close(patience_seconds=0.05)
    assert sink.closed
    assert delivery.stats.pending == 1


async def test_the_file_is_opened_again_after_rotation(tmp_path: Path) -> None:
    path = tmp_path / "logs" / "alerts.jsonl"
    delivery = Delivery(JsonlSink(path), MemoryOutbox())
    delivery.start()
    delivery.offer(make_event(1))
    await settled(delivery)
    path.rename(path.with_suffix(".1"))
    delivery.offer(make_event(2))
    await settled(delivery)
    path.unlink()
    path.touch()
    delivery.offer(make_event(3))
    await settled(delivery)
    await delivery.close()
    assert path.with_suffix(".1").read_text() == make_event(1).line + "\n"
    assert path.read_text() == make_event(3).line + "\n"


async def test_a_file_that_cannot_be_written_is_tried_again(tmp_path: Path) -> None:
    path = tmp_path / "alerts.jsonl"
    delivery = Delivery(JsonlSink(path), MemoryOutbox())
    path.mkdir()
    delivery.start()
    delivery.offer(make_event())
    while not delivery.stats.failed_attempts:
        await asyncio.sleep(0.001)
    path.rmdir()
    await settled(delivery)
    await delivery.close()
    assert path.read_text() == make_event().line + "\n"
    assert delivery.stats.delivered == 1
