"""The Redis sink against a real redis-server; it must be installed, these tests do not pass without it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
import redis
from emit_kit import make_event
from support.redis_server import free_port, redis_server

from monitor.emit import Delivery, RedisStreamSink, SpoolOutbox
from monitor.errors import FeaturewatchError

STREAM = "mon:events"


def entries(client: redis.Redis) -> list[dict[bytes, bytes]]:
    return [fields for _, fields in client.xrange(STREAM)]


async def settled(delivery: Delivery) -> None:
    while delivery.stats.pending:
        await asyncio.sleep(0.005)


@pytest.fixture
def port() -> int:
    return free_port()


async def test_events_become_entries_with_their_fields(tmp_path: Path, port: int) -> None:
    with redis_server(port, tmp_path) as client:
        sink = RedisStreamSink(f"redis://127.0.0.1:{port}", STREAM)
        delivery = Delivery(sink, SpoolOutbox(tmp_path / "spool"))
        delivery.start()
        for number in range(3):
            delivery.offer(make_event(number))
        await settled(delivery)
        await delivery.close()
        found = entries(client)
    assert [entry[b"event_id"] for entry in found] == [b"alert-0", b"alert-1", b"alert-2"]
    assert found[0][b"policy"] == b"loud"
    assert float(found[0][b"score"]) == 2.5
    assert found[0][b"token"].decode() == " bömb\n"


async def test_events_wait_on_disk_while_redis_is_away_even_over_a_restart(tmp_path: Path, port: int) -> None:
    url = f"redis://127.0.0.1:{port}"
    first = Delivery(RedisStreamSink(url, STREAM), SpoolOutbox(tmp_path / "spool"))
    first.start()
    first.offer(make_event(1))
    first.offer(make_event(2))
    while not first.stats.failed_attempts:
        await asyncio.sleep(0.005)
    await first.close(patience_seconds=0.0)
    second = Delivery(RedisStreamSink(url, STREAM), SpoolOutbox(tmp_path / "spool"))
    second.start()
    second.offer(make_event(3))
    with redis_server(port, tmp_path) as client:
        await settled(second)
        assert [entry[b"event_id"] for entry in entries(client)] == [b"alert-1", b"alert-2", b"alert-3"]
    # Redis dies under an open connection and comes back empty.
    second.offer(make_event(4))
    with redis_server(port, tmp_path) as client:
        await settled(second)
        assert [entry[b"event_id"] for entry in entries(client)] == [b"alert-4"]
    await second.close()
    assert second.stats.delivered == 4
    assert second.stats.dropped == 0


async def test_the_stream_is_capped(tmp_path: Path, port: int) -> None:
    with redis_server(port, tmp_path) as client:
        sink = RedisStreamSink(f"redis://127.0.0.1:{port}", STREAM, max_length=100)
        for number in range(600):
            await sink.deliver(make_event(number))
        await sink.close()
        # "Approximately": Redis trims whole nodes of a hundred entries.
        assert 100 <= client.xlen(STREAM) <= 300


def test_a_password_is_not_shown() -> None:
    assert (
        RedisStreamSink("redis://:secret@127.0.0.1:1/0", STREAM).name == "redis:redis://127.0.0.1:1/0 stream mon:events"
    )


@pytest.mark.parametrize(
    "url",
    [
        "redis://me:secret@127.0.0.1:1/0",
        "redis://127.0.0.1:1/0?password=secret",
        "redis://127.0.0.1:1/0?password=sec@secret",
        "redis://:se?cret@127.0.0.1",
        "redis://:secret@[::1",
        "redis://[::1?password=secret",
        "redis://:secret/x@127.0.0.1:1",
        "me:secret@127.0.0.1:1",
    ],
)
def test_a_secret_is_shown_in_no_spelling_of_a_url(url: str) -> None:
    try:
        told = RedisStreamSink(url, STREAM).name
    except FeaturewatchError as error:
        told = str(error)
    assert "127.0.0.1" in told or "redis://" in told
    assert not any(part in told.replace("rediss://", "") for part in ("secret", "sec", "se?", "cret", "me:"))


@pytest.mark.parametrize("url", ["redis://[::1", "redis://127.0.0.1:many", "localhost:6379"])
def test_a_url_that_is_none_is_refused_readably(url: str) -> None:
    with pytest.raises(FeaturewatchError, match=r"Redis URL .* must be a whole URL .* Write for example"):
        RedisStreamSink(url, STREAM)
