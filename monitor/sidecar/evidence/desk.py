"""Makes evidence: asks a tap for the residual rows of a generation, has them encoded, hands the result to the store."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt

from monitor.audit import AuditWriter, StoredEvidence
from monitor.policy import SaeInfo
from monitor.sidecar.evidence.capture import Capture
from monitor.sidecar.evidence.captures import Captures, CaptureTap
from monitor.sidecar.evidence.draft import EvidenceDraft
from monitor.sidecar.evidence.encoder import Encoder, EncodingError
from monitor.v1.evidence_pb2 import Evidence

_log = logging.getLogger(__name__)

DRAIN_SECONDS: Final = 3.0
"""How long the end of the sidecar waits for rows that are being encoded."""


class SaeFiles(Protocol):
    """Where dictionaries lie, and what policies were read with."""

    def sae(self, sae_id: str) -> SaeInfo: ...

    def sae_folder(self, sae_id: str) -> Path: ...


@dataclass(frozen=True)
class Seen:
    """A generation as it is known when its capture has ended.

    Attributes:
        content: "full", or "none" when a policy that fired forbids content; empty when it is not known any more.
        observed_p: bool [positions], which rows were judged.
    """

    content: str
    observed_p: npt.NDArray[np.bool_]


Look = Callable[[], Awaitable[Seen]]


@dataclass(frozen=True)
class Gathered:
    """What a capture gave.

    Attributes:
        evidence: one per dictionary, also where nothing came: `missing` tells.
        faults: why rows could not be encoded.
        withheld: a policy that forbids content fired meanwhile; there is no evidence then.
    """

    capture: Capture
    evidence: tuple[Evidence, ...]
    faults: tuple[str, ...]
    withheld: bool


@dataclass(frozen=True)
class EvidenceStats:
    """Counts since the start, `running` as of now.

    Attributes:
        stored, withheld: captures whose evidence went to the store, and those whose a policy forbids to keep.
        faulty: captures of which rows could not be encoded.
        tokens: tokens in stored evidence, once per dictionary.
        missing: observed positions of which stored evidence has no row, once per dictionary.
    """

    running: int = 0
    stored: int = 0
    withheld: int = 0
    faulty: int = 0
    tokens: int = 0
    missing: int = 0


class EvidenceDesk:
    """Used on the event loop only. Messages are encoded one after the other, in the order in which they are asked for.

    Attributes:
        captures: where they are started; `gather` or another reader then takes their rows.
    """

    def __init__(self, sae_files: SaeFiles, writer: AuditWriter) -> None:
        self.captures = Captures()
        self._sae_files = sae_files
        self._writer = writer
        self._encoder = Encoder()
        self._stats = EvidenceStats()
        self._gathering: Counter[str] = Counter()
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def stats(self) -> EvidenceStats:
        return replace(self._stats, running=len(self.captures))

    def gathers(self, generation_id: str) -> bool:
        """True while evidence of a generation is on its way."""
        return self._gathering[generation_id] > 0

    async def gather(self, tap: CaptureTap, capture: Capture, reason: str, *, look: Look) -> Gathered:
        """Encodes and stores what a capture gives; ends when it does.

        Args:
            capture: at hook points that its subject's `dictionaries` have.
            reason: "<policy>/<rule>" or "client".
            look: called when the capture has ended.
        """
        self._gathering[capture.subject.generation_id] += 1
        self._idle.clear()
        try:
            return await self._gather(tap, capture, reason, look)
        finally:
            self._gathering -= Counter([capture.subject.generation_id])
            if not self._gathering:
                self._idle.set()

    async def _gather(self, tap: CaptureTap, capture: Capture, reason: str, look: Look) -> Gathered:
        subject = capture.subject
        drafts = {
            hook_point: [self._draft(hook_point, sae, reason) for sae in subject.dictionaries[hook_point]]
            for hook_point in capture.hook_points
        }
        try:
            async for first in capture:
                rows = capture.joined(first)
                for draft in drafts[rows.hook_point]:
                    if draft.full or draft.fault:
                        continue
                    try:
                        folder = self._sae_files.sae_folder(draft.sae)
                        draft.add(await self._encoder.encode(folder, draft.sae_sha256, rows))
                    except EncodingError as error:
                        draft.fault = str(error)
                        tap.judge.problems.note("encoding failed", f"request {subject.request_id}: {error}")
        finally:
            self.captures.stop(capture)
        seen = await look()
        # Of a request that goes on, later positions were not asked for.
        observed_p = seen.observed_p if capture.follow else seen.observed_p[: subject.positions]
        all_drafts = [draft for of_hook_point in drafts.values() for draft in of_hook_point]
        evidence = tuple(draft.finish(observed_p, subject.directions) for draft in all_drafts)
        # Not known: so many requests have ended since that this one is forgotten, and a policy may have forbidden it.
        withheld = seen.content != "full"
        if withheld:
            _log.info("request %s: no evidence is kept, a policy forbids content or may have", subject.request_id)
        else:
            self._writer.submit_evidence(StoredEvidence(subject.generation_id, evidence))
        faults = tuple(draft.fault for draft in all_drafts if draft.fault)
        self._count(evidence, faults, withheld)
        return Gathered(capture, () if withheld else evidence, faults, withheld)

    def _count(self, evidence: Sequence[Evidence], faults: Sequence[str], withheld: bool) -> None:
        before, kept = self._stats, () if withheld else evidence
        self._stats = EvidenceStats(
            stored=before.stored + (not withheld),
            withheld=before.withheld + withheld,
            faulty=before.faulty + bool(faults),
            tokens=before.tokens + sum(len(one.tokens) for one in kept),
            missing=before.missing + sum(one.missing for one in kept),
        )

    async def close(self) -> None:
        """Ends all captures; what has arrived is encoded, as far as it is done in `DRAIN_SECONDS`."""
        self.captures.close()
        try:
            await asyncio.wait_for(self._idle.wait(), DRAIN_SECONDS)
        except TimeoutError:
            _log.warning("rows of %d captures are not all encoded after %.0f s", len(self._gathering), DRAIN_SECONDS)
        await self._encoder.close()

    def _draft(self, hook_point: str, sae: str, reason: str) -> EvidenceDraft:
        info = self._sae_files.sae(sae)
        return EvidenceDraft(hook_point, sae, info.sha256, info.num_latents, reason)
