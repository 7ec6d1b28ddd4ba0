"""A process that takes residual rows as a sidecar does, over gRPC or out of shared memory:

    python -m residuals.receiver TARGET SHARED_MEMORY_NAME

A message with values carries rows. One without says where in the shared memory they lie: `first_position` is the
offset in bytes. Both are copied to where they stay; the last message of a capture is answered with an Ack of its id.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from multiprocessing import resource_tracker
from multiprocessing.shared_memory import SharedMemory

import grpc
import numpy as np

from monitor.rpc import SERVER_OPTIONS
from monitor.v1 import tap_pb2, tap_pb2_grpc

BYTES_PER_VALUE = {"float32": 4, "bfloat16": 2}


class Receiver(tap_pb2_grpc.TapServiceServicer):
    def __init__(self, shared: SharedMemory) -> None:
        assert shared.buf is not None
        self._shared = np.frombuffer(shared.buf, np.uint8)
        self._rows: list[bytes] = []

    async def Stream(  # noqa: N802 -- gRPC's name
        self, request_iterator: AsyncIterator[tap_pb2.StreamRequest], context: object
    ) -> AsyncIterator[tap_pb2.StreamResponse]:
        async for request in request_iterator:
            rows = request.residual_rows
            if rows.values:
                self._rows.append(rows.values)
            elif rows.row_count:
                nbytes = rows.row_count * rows.width * BYTES_PER_VALUE[rows.dtype]
                self._rows.append(self._shared[rows.first_position : rows.first_position + nbytes].tobytes())
            if rows.last:
                # Read once, as the encoder would.
                total = sum(int(np.frombuffer(part, np.uint8)[::64].sum()) for part in self._rows)
                self._rows = []
                yield tap_pb2.StreamResponse(ack=tap_pb2.Ack(seq=total))


async def main() -> None:
    target, name = sys.argv[1:]
    shared = SharedMemory(name)
    # Only its owner shall remove it.
    resource_tracker.unregister(f"/{shared.name}", "shared_memory")
    server = grpc.aio.server(options=SERVER_OPTIONS)
    tap_pb2_grpc.add_TapServiceServicer_to_server(Receiver(shared), server)
    server.add_insecure_port(target)
    await server.start()
    print("ready", flush=True)
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(main())
