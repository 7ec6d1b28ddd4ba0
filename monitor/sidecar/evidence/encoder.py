"""The sidecar's end of the encoding process."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
from asyncio.subprocess import PIPE, Process
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from monitor.v1.evidence_pb2 import Evidence
from monitor.v1.tap_pb2 import ResidualRows

_log = logging.getLogger(__name__)

# A message of 1 MiB takes well under a second with small dictionaries and some seconds with 65,536 latents.
ANSWER_SECONDS: Final = 120.0
_ONE_THREAD: Final = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


class EncodingError(Exception):
    """Rows could not be encoded, and why."""


class Encoder:
    """Starts the process with the first rows, and again when it has died. Used on the event loop only."""

    def __init__(self) -> None:
        self._process: Process | None = None
        # Answers come in the order of the requests; asyncio's lock is fair.
        self._turn = asyncio.Lock()
        self._closed = False

    @property
    def pid(self) -> int | None:
        """Of the process while it runs."""
        return None if self._process is None else self._process.pid

    async def encode(self, sae_folder: Path, sae_sha256: str, rows: ResidualRows) -> Evidence:
        """Top latents of each finite row, as an Evidence without hook point and reason. Raises EncodingError."""
        async with self._turn:
            if self._closed:
                raise EncodingError("the sidecar is shutting down")
            try:
                # An answer that nobody waited for would be taken for the next one's.
                return await asyncio.wait_for(self._ask(sae_folder, sae_sha256, rows), ANSWER_SECONDS)
            except EncodingError:
                raise
            except (OSError, EOFError, TimeoutError, ValueError) as error:
                await self._end()
                raise EncodingError(f"the encoding process failed ({type(error).__name__}: {error})") from error
            except asyncio.CancelledError:
                await self._end()
                raise

    async def close(self) -> None:
        """Ends the process; what it was encoding is lost."""
        self._closed = True
        await self._end()

    async def _ask(self, sae_folder: Path, sae_sha256: str, rows: ResidualRows) -> Evidence:
        process = await self._running()
        assert process.stdin is not None
        assert process.stdout is not None
        data = rows.SerializeToString()
        header = {"sae": str(sae_folder.absolute()), "sha256": sae_sha256, "bytes": len(data)}
        process.stdin.writelines([json.dumps(header).encode() + b"\n", data])
        await process.stdin.drain()
        line = await process.stdout.readline()
        if not line:
            raise EOFError(f"it ended with {await process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        payload = await process.stdout.readexactly(answer["bytes"])
        if "error" in answer:
            raise EncodingError(answer["error"])
        return Evidence.FromString(payload)

    async def _running(self) -> Process:
        if self._process is None:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "monitor.sidecar.evidence.encode_process"),
                stdin=PIPE,
                stdout=PIPE,
                env={**os.environ, **_ONE_THREAD},
            )
            _log.info("process %d encodes dictionaries", self._process.pid)
        return self._process

    async def _end(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()
