"""A Redis Stream: `XADD` with an approximate length cap."""

from __future__ import annotations

import re
from typing import Any

import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from monitor.emit.event import Event
from monitor.emit.sink import SinkError
from monitor.errors import FeaturewatchError


class RedisStreamSink:
    """Adds each event as one entry whose fields are the event's fields.

    An entry may come twice after a lost connection: readers deduplicate by the field `event_id`. `max_length` is a cap
    on memory that may drop unread entries; Redis is the bus, the audit store is the archive.
    """

    def __init__(self, url: str, stream: str, max_length: int = 100_000, timeout_seconds: float = 2.0) -> None:
        """Connects on first use. Raises FeaturewatchError for a URL that redis-py does not read."""
        self._stream = stream
        self._max_length = max_length
        self._where = _without_secrets(url)
        try:
            self._redis = redis.asyncio.Redis.from_url(
                url,
                socket_timeout=timeout_seconds,
                socket_connect_timeout=timeout_seconds,
                # One attempt: `Delivery` repeats, with its own back-off and counters.
                retry=Retry(NoBackoff(), 0),
            )
        except ValueError as error:
            # redis-py's own words may quote a part of the password.
            raise FeaturewatchError(
                f"Redis URL {self._where!r}",
                "it must be a whole URL that begins with redis://, rediss:// or unix://",
                "write for example redis://127.0.0.1:6379/0",
            ) from error

    @property
    def name(self) -> str:
        return f"redis:{self._where} stream {self._stream}"

    async def deliver(self, event: Event) -> None:
        try:
            fields: dict[Any, Any] = dict(event.fields)
            await self._redis.xadd(self._stream, fields, maxlen=self._max_length, approximate=True)
        except (RedisError, OSError) as error:
            raise SinkError(f"{type(error).__name__}: {error}") from error

    async def close(self) -> None:
        try:
            await self._redis.aclose()
        except RedisError as error:
            raise OSError(f"{type(error).__name__}: {error}") from error


def _without_secrets(url: str) -> str:
    """The URL as it may be shown: without user, password and query, also where it is malformed."""
    scheme, mark, rest = url.rpartition("://") if url.count("://") == 1 else ("", "", url)
    place = re.split("[?#]", rest, maxsplit=1)[0]
    if "@" in rest[len(place) :]:
        # Which side of it is the secret one cannot be told.
        return f"{scheme}{mark}…"
    return f"{scheme}{mark}{place.rpartition('@')[2]}"
