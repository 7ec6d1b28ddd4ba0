"""The tap's end of a stream to the receiver process."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
from queue import SimpleQueue

import grpc

from monitor.rpc import CHANNEL_OPTIONS
from monitor.v1 import tap_pb2, tap_pb2_grpc

Messages = Iterator[tap_pb2.StreamRequest]


class Stream:
    """One gRPC stream. gRPC's thread pulls the messages one at a time, as it does in the tap."""

    def __init__(self, channel: grpc.Channel, shared: SharedMemory) -> None:
        self.shared = shared
        self._jobs: SimpleQueue[Messages | None] = SimpleQueue()
        self._answers = tap_pb2_grpc.TapServiceStub(channel).Stream(self._requests())

    def send(self, messages: Messages) -> int:
        """Returns when the receiver has all of them, with its checksum."""
        self._jobs.put(messages)
        return int(next(self._answers).ack.seq)

    def close(self) -> None:
        self._jobs.put(None)

    def _requests(self) -> Messages:
        while (messages := self._jobs.get()) is not None:
            yield from messages


@contextmanager
def open_stream(shared_bytes: int) -> Iterator[Stream]:
    """A receiver process on a Unix socket, and `shared_bytes` of memory shared with it."""
    shared = SharedMemory(create=True, size=shared_bytes)
    with tempfile.TemporaryDirectory(prefix="fw-bench-") as folder:
        target = f"unix:{folder}/s.sock"
        command = [sys.executable, "-m", "residuals.receiver", target, shared.name]
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n", "the receiver did not start"
            with grpc.insecure_channel(target, options=CHANNEL_OPTIONS) as channel:
                stream = Stream(channel, shared)
                yield stream
                stream.close()
        finally:
            process.kill()
            process.wait()
            shared.unlink()
            shared.close()
