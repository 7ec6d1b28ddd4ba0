"""monitor.v1.GenerationService: live, recent and stored generations as one list."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from typing import Any, Final, NoReturn

import grpc

from monitor.audit import (
    AmbiguousIdError,
    AuditStore,
    AuditWriter,
    PageKey,
    RecentSummaries,
    UnknownIdError,
    resolve,
)
from monitor.audit.writer import BuildRecord
from monitor.errors import FeaturewatchError
from monitor.rpc import abort
from monitor.sidecar.evidence.calls import CODES, CaptureCalls
from monitor.sidecar.evidence.capture import CaptureRefusedError
from monitor.sidecar.records import prepare_record
from monitor.sidecar.taps import Taps
from monitor.v1.generations_pb2 import (
    CaptureGenerationRequest,
    CaptureGenerationResponse,
    GenerationRecord,
    GenerationSummary,
    GetGenerationRequest,
    GetGenerationResponse,
    ListGenerationsRequest,
    ListGenerationsResponse,
    ReadResidualsRequest,
    ReadResidualsResponse,
)
from monitor.v1.generations_pb2_grpc import GenerationServiceServicer

DEFAULT_PAGE: Final = 100
LARGEST_PAGE: Final = 1000
STORE_FAILED: Final = "STORE_FAILED"
ONLY_SUMMARY: Final = "nothing flagged this generation: only its summary is kept, in memory"

GATHERING: Final = "more evidence is on its way: a capture runs, or its rows are being encoded"


class GenerationService(GenerationServiceServicer):
    def __init__(self, taps: Taps, recent: RecentSummaries, store: AuditStore, writer: AuditWriter) -> None:
        self._taps = taps
        self._recent = recent
        self._store = store
        self._writer = writer
        self._captures = CaptureCalls(taps, recent, writer)
        # Waiting for the writer can take seconds; other work must not find all threads of the loop's pool taken by it.
        self._flushing = ThreadPoolExecutor(2, thread_name_prefix="flush")

    async def ListGenerations(  # noqa: N802
        self,
        request: ListGenerationsRequest,
        context: grpc.aio.ServicerContext[ListGenerationsRequest, ListGenerationsResponse],
    ) -> ListGenerationsResponse:
        size = request.page_size or DEFAULT_PAGE
        try:
            if size > LARGEST_PAGE:
                raise FeaturewatchError(f"page_size {size}", f"it is at most {LARGEST_PAGE}", "ask for several pages")
            before = PageKey.from_token(request.page_token)
        except FeaturewatchError as error:
            await abort(context, grpc.StatusCode.INVALID_ARGUMENT, "BAD_REQUEST", error)
        try:
            # One more than a page tells whether there is a next one.
            found = await self._summaries(size + 1, before, unflagged=request.include_unflagged)
        except FeaturewatchError as error:
            await abort(context, grpc.StatusCode.UNAVAILABLE, STORE_FAILED, error)
        page = found[:size]
        more = PageKey.of(page[-1]).token if len(found) > size else ""
        return ListGenerationsResponse(generations=page, next_page_token=more)

    async def GetGeneration(  # noqa: N802
        self,
        request: GetGenerationRequest,
        context: grpc.aio.ServicerContext[GetGenerationRequest, GetGenerationResponse],
    ) -> GetGenerationResponse:
        try:
            record = await self._record(request.id)
        except FeaturewatchError as error:
            await _abort(context, error)
        if self._taps.evidence.gathers(record.summary.generation_id):
            record.notes.append(GATHERING)
        return GetGenerationResponse(generation=record)

    async def CaptureGeneration(  # noqa: N802
        self,
        request: CaptureGenerationRequest,
        context: grpc.aio.ServicerContext[CaptureGenerationRequest, CaptureGenerationResponse],
    ) -> CaptureGenerationResponse:
        try:
            generation_id = await self._resolve(request.id)
            evidence = await self._captures.evidence(generation_id, request.hook_points)
        except FeaturewatchError as error:
            await _abort(context, error)
        return CaptureGenerationResponse(generation_id=generation_id, evidence=evidence)

    async def ReadResiduals(  # noqa: N802
        self,
        request: ReadResidualsRequest,
        context: grpc.aio.ServicerContext[ReadResidualsRequest, ReadResidualsResponse],
    ) -> AsyncIterator[ReadResidualsResponse]:
        try:
            generation_id = await self._resolve(request.id)
            async with aclosing(self._captures.residuals(generation_id, request.hook_points)) as messages:
                async for rows in messages:
                    yield ReadResidualsResponse(rows=rows)
        except FeaturewatchError as error:
            await _abort(context, error)

    def close(self) -> None:
        self._flushing.shutdown(wait=False)

    async def _flush(self) -> None:
        await asyncio.get_running_loop().run_in_executor(self._flushing, self._writer.flush)

    async def _summaries(self, limit: int, before: PageKey | None, *, unflagged: bool) -> list[GenerationSummary]:
        await self._flush()
        live = [s for s in await self._live_summaries() if unflagged or s.fired]
        stored = await asyncio.to_thread(self._store.page, limit, before)
        recent = self._recent.page(limit, before) if unflagged else []
        # The live one counts where a generation is also stored as it was when a rule fired.
        by_id = {summary.generation_id: summary for summary in [*stored, *recent, *live]}
        wanted = [s for s in by_id.values() if before is None or PageKey.of(s) < before]
        return sorted(wanted, key=PageKey.of, reverse=True)[:limit]

    async def _resolve(self, id_: str) -> str:
        # Live ones first: what is not among them any more is then found behind them.
        live = await self._live_summaries()
        await self._flush()
        stored = await asyncio.to_thread(self._store.candidates, id_)
        return resolve(id_, [*live, *self._recent.summaries(), *stored])

    async def _record(self, id_: str) -> GenerationRecord:
        generation_id = await self._resolve(id_)
        build = await self._live_record(generation_id)
        if build is not None:
            record = await asyncio.to_thread(build)
            record.evidence.extend(await asyncio.to_thread(self._store.evidence, generation_id))
            return record
        # It may have ended since.
        await self._flush()
        stored = await asyncio.to_thread(self._store.get, generation_id)
        if stored is not None:
            return stored
        summary = next((s for s in self._recent.summaries() if s.generation_id == generation_id), None)
        if summary is None:
            raise UnknownIdError(f"generation {id_!r}", "it has just ended and its record is lost", "see the log")
        return GenerationRecord(summary=summary, content="none", notes=[ONLY_SUMMARY])

    async def _live_summaries(self) -> list[GenerationSummary]:
        def work() -> list[GenerationSummary]:
            return [request.summary() for tap in self._taps for request in tap.judge.live]

        return await self._taps.between_frames(work)

    async def _live_record(self, generation_id: str) -> BuildRecord | None:
        def work() -> BuildRecord | None:
            for tap in self._taps:
                for request in tap.judge.live:
                    if request.identity.generation_id == generation_id:
                        return prepare_record(request, tap.judge)
            return None

        return await self._taps.between_frames(work)


async def _abort(context: grpc.aio.ServicerContext[Any, Any], error: FeaturewatchError) -> NoReturn:
    code, reason = grpc.StatusCode.UNAVAILABLE, STORE_FAILED
    if isinstance(error, UnknownIdError):
        code, reason = grpc.StatusCode.NOT_FOUND, "UNKNOWN_GENERATION"
    elif isinstance(error, AmbiguousIdError):
        code, reason = grpc.StatusCode.INVALID_ARGUMENT, "AMBIGUOUS_ID"
    elif isinstance(error, CaptureRefusedError):
        code, reason = CODES[error.reason], error.reason
    await abort(context, code, reason, error)
