"""Which token prefixes the sidecar holds detector state for, as told by `TapService.WatchPrefixes`.

A thread of its own follows the stream and connects again when it breaks. The scheduler only reads.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final

import grpc

from monitor.tap.log import RateLimitedLog, logger
from monitor.v1 import engine_pb2, tap_pb2, tap_pb2_grpc

BACKOFF_SECONDS: Final = (0.05, 1.0)
"""First and longest pause between two attempts to connect."""
OLD_SIDECAR_SECONDS: Final = 30.0
"""Pause after a sidecar that does not know the call."""


class PrefixWatch:
    """The sidecar's word on prefixes, as last heard.

    Args:
        open_channel: makes a channel to the sidecar.
    """

    def __init__(self, open_channel: Callable[[], grpc.Channel], engine: engine_pb2.EngineInfo) -> None:
        self._open_channel = open_channel
        self._request = tap_pb2.WatchPrefixesRequest(engine=engine)
        # Written by the thread alone. A look-up of another thread falls before or after each change of it.
        self._known: set[bytes] = set()
        self._reread: bool | None = None
        self.connected = False
        self._closing = threading.Event()
        self._call: grpc.Call | None = None
        self._log = RateLimitedLog()
        self._thread = threading.Thread(target=self._run, name="featurewatch-prefixes", daemon=True)
        self.connections = 0
        self.errors = 0

    @property
    def active(self) -> bool:
        """Whether a policy asks for prefixes to be read again and the sidecar is there to say which are known."""
        return self.connected and self._reread is True

    @property
    def lost(self) -> bool:
        """Whether the sidecar is away, and may ask for prefixes to be read again."""
        return not self.connected and self._reread is not False

    def __contains__(self, prefix_hash: bytes) -> bool:
        return prefix_hash in self._known

    def __len__(self) -> int:
        return len(self._known)

    def start(self) -> None:
        self._thread.start()

    def close(self, timeout: float) -> None:
        """Ends the stream, and waits for the thread for at most `timeout` seconds."""
        self._closing.set()
        call = self._call
        if call is not None:
            call.cancel()
        if self._thread.ident is not None:
            self._thread.join(timeout)

    def _run(self) -> None:
        pause = BACKOFF_SECONDS[0]
        while not self._closing.is_set():
            before = self.connections
            try:
                self._follow()
            except grpc.RpcError as error:
                if error.code() == grpc.StatusCode.UNIMPLEMENTED:
                    self._reread = False
                    self._log.warn_about("old", "this sidecar cannot say which prefixes it knows; none is read again")
                    self._closing.wait(OLD_SIDECAR_SECONDS)
                elif not self._closing.is_set():
                    details = f"{error.code().name}: {error.details()}"
                    self._log.warn_about("connection", f"no word from the sidecar about prefixes ({details})")
            except Exception as error:  # noqa: BLE001 -- the thread must outlive any fault of one connection
                self.errors += 1
                self._log.warn_about("prefixes", "following the sidecar's prefixes failed", exception=error)
            finally:
                self.connected = False
                self._call = None
            pause = BACKOFF_SECONDS[0] if self.connections > before else min(pause * 2, BACKOFF_SECONDS[1])
            self._closing.wait(pause)

    def _follow(self) -> None:
        with self._open_channel() as channel:
            responses = tap_pb2_grpc.TapServiceStub(channel).WatchPrefixes(self._request)
            self._call = responses
            if self._closing.is_set():
                responses.cancel()
            for response in responses:
                self._take(response)

    def _take(self, response: tap_pb2.WatchPrefixesResponse) -> None:
        if response.reset:
            self._known = set(response.added)
        else:
            self._known.update(response.added)
        self._known.difference_update(response.removed)
        if self._reread != response.reread or not self.connected:
            logger.info(
                "featurewatch: cached prefixes are %s",
                "computed again where the sidecar has no detector state" if response.reread else "used as they come",
            )
        self._reread = response.reread
        if not self.connected:
            self.connected = True
            self.connections += 1
