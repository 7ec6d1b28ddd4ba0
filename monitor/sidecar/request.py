"""One live request: its books, its transcript, what fired on it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from monitor.audit import Transcript
from monitor.policy import CompiledDetector, Peaks, PolicyEngine
from monitor.sidecar.coverage import CoverageBook
from monitor.sidecar.judging import Judging
from monitor.sidecar.phases import PhaseBook
from monitor.sidecar.plan import TapPlan
from monitor.sidecar.prefix.request import RequestPrefix
from monitor.sidecar.token_log import TokenLog
from monitor.sidecar.tokenizer import TokenReader
from monitor.v1.alerts_pb2 import Alert, DetectorState, Mode
from monitor.v1.generations_pb2 import DetectorPeak, GenerationSummary


@dataclass(frozen=True, slots=True)
class RequestIdentity:
    """Who a request is; `generation_id` is made by this sidecar.

    A tap's `handle` tells requests apart that carry the same id: a client may choose ids, and streaming input makes
    several generations of one request. Unlike the session it outlives this process.
    """

    generation_id: str
    handle: int
    request_id: str
    external_id: str
    model: str
    adapter: str
    start_unix_nanos: int
    prompt_tokens: int
    tenant: str = ""


@dataclass(eq=False, slots=True)
class LiveRequest:
    """State of one request besides its slot's detector state, which the policy engine holds.

    Attributes:
        plan: what judges it, from its begin to its end.
        engine, slot: where its detectors' state is, until `close`.
        judging: which of its policies judge it, and under which exceptions.
        phases: which of its positions are prompt, reasoning and response.
        class_state: where the template's state machine stands after the last response token seen.
        prompt_position, prompt_state: where it stands within the prompt, as far as rows have come.
        tail_ids: sampled tokens that were never fed back.
        content: "full", or "none" once a policy fired that forbids content in records.
        prefix: its prefixes' names; None where no state of prefixes is kept.
        told_unseen: policies that ask for it were told that positions stay unseen.
        told_late: policies that were told that a rule of theirs was judged after its deadline.
        followed: a rule has asked for its residual rows until its end.
        kept: a client captured it, or it is in the sample; it gets a record although nothing flags it.
        final_peaks: what its detectors reached, once it has ended; until then its slot knows.
    """

    identity: RequestIdentity
    plan: TapPlan
    engine: PolicyEngine
    slot: int
    log: TokenLog
    judging: Judging
    phases: PhaseBook
    class_state: int
    prompt_position: int = 0
    prompt_state: int = 0
    coverage: CoverageBook = field(default_factory=CoverageBook)
    positions: int | None = None
    end_unix_nanos: int = 0
    tail_ids: tuple[int, ...] = ()
    alerts: list[Alert] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    content: str = "full"
    prefix: RequestPrefix | None = None
    told_unseen: bool = False
    told_late: frozenset[str] = frozenset()
    followed: bool = False
    kept: bool = False
    final_peaks: Peaks | None = None

    def close(self) -> None:
        """Gives the slot back; what the detectors reached stays known."""
        self.final_peaks = self.engine.peaks(self.slot)
        self.engine.close(self.slot)

    def classify(self, reader: TokenReader, first: int, token_ids_n: npt.NDArray[np.int32]) -> npt.NDArray[np.uint8]:
        """Token classes of rows from position `first` on, in order of positions; advances the template's state."""
        cut = min(max(self.identity.prompt_tokens - first, 0), len(token_ids_n))
        prompt = self._classify_prompt(reader, first, token_ids_n[:cut]) if cut else None
        if cut == len(token_ids_n) and prompt is not None:
            return prompt
        response, self.class_state = reader.classes.classify(token_ids_n[cut:], first + cut, self.class_state)
        return response if prompt is None else np.concatenate([prompt, response])

    def _classify_prompt(
        self, reader: TokenReader, first: int, token_ids_n: npt.NDArray[np.int32]
    ) -> npt.NDArray[np.uint8]:
        self.pass_prompt(reader, first)
        classes, self.prompt_state = reader.classes.classify(token_ids_n, first, self.prompt_state)
        self.prompt_position = first + len(token_ids_n)
        return classes

    def pass_prompt(self, reader: TokenReader, until: int) -> bool:
        """Takes the prompt's tokens before `until` into the template's state: their rows do not come. False when they
        are not known any more."""
        until = min(until, self.identity.prompt_tokens)
        if until <= self.prompt_position:
            return True
        skipped = self.log.prompt_ids(self.prompt_position, until)
        if skipped is None:
            self.prompt_state = 0
            self.notes.append(
                f"token classes of the prompt from position {until} on are guessed: its tokens were given up"
            )
        else:
            _, self.prompt_state = reader.classes.classify(skipped, self.prompt_position, self.prompt_state)
        self.prompt_position = until
        return skipped is not None

    def phase_codes(
        self, reader: TokenReader, first: int, token_ids_n: npt.NDArray[np.int32]
    ) -> npt.NDArray[np.uint8] | int:
        """Codes of `Phase` of tokens from position `first` on, in order of positions; one code where it is the same for
        all of them."""
        known = self.phases.guessed_from is None
        codes = self.phases.take(reader.phases, first, token_ids_n)
        if known and self.phases.guessed_from is not None:
            self.notes.append(f"what is reasoning is guessed from position {first} on: tokens before it are not known")
        return codes

    def take_tail(self, reader: TokenReader, positions: int, token_ids_n: npt.NDArray[np.int32]) -> None:
        """Sampled tokens that were never fed back, behind all `positions`."""
        self.tail_ids = tuple(token_ids_n.tolist())
        self.phases.take(reader.phases, max(positions, self.phases.next_position), token_ids_n)

    def add_alert(self, alert: Alert, content: str) -> None:
        self.alerts.append(alert)
        self.log.flag()
        if content == "none":
            self.content = "none"

    def summary(self) -> GenerationSummary:
        """What is known now; `end_unix_nanos` is 0 while the request runs."""
        positions = self.coverage.next_position if self.positions is None else self.positions
        fired = dict.fromkeys(f"{alert.policy}/{alert.rule}" for alert in self.alerts)
        return GenerationSummary(
            generation_id=self.identity.generation_id,
            request_id=self.identity.request_id,
            external_id=self.identity.external_id,
            model=self.identity.model,
            adapter=self.identity.adapter,
            tenant=self.identity.tenant,
            start_unix_nanos=self.identity.start_unix_nanos,
            end_unix_nanos=self.end_unix_nanos,
            prompt_tokens=self.identity.prompt_tokens,
            output_tokens=max(positions - self.identity.prompt_tokens, 0) + len(self.tail_ids),
            coverage=self.coverage.message(self.positions),
            fired=fired,
            mode=max((alert.mode for alert in self.alerts), default=Mode.MODE_UNSPECIFIED),
            peaks=self._peaks(self.plan.policies.detectors),
        )

    def transcript_arrays(self) -> Transcript:
        """Copies of the arrays over all positions known, the unfed tail last; texts are left to the caller (None)."""
        log, num_prompt = self.log, self.identity.prompt_tokens
        size = max(self.coverage.next_position, num_prompt)
        tail = np.array(self.tail_ids, np.int32)
        total = size + tail.size
        observed_p = np.zeros(total, np.bool_)
        observed_p[: self.coverage.next_position] = self.coverage.observed_p()
        scores_pd, token_scores_pd = log.scores(total)
        return Transcript(
            token_ids_p=np.concatenate([log.ids(0, size), tail]),
            phases_p=self.phases.of(0, total),
            observed_p=observed_p,
            scores_pd=scores_pd,
            token_scores_pd=token_scores_pd,
            texts=None,
        )

    def _peaks(self, detectors: Sequence[CompiledDetector]) -> list[DetectorPeak]:
        found = self.engine.peaks(self.slot) if self.final_peaks is None else self.final_peaks
        return [
            DetectorPeak(
                policy=detector.policy,
                detector=detector.id,
                score=score,
                position=position,
                state=DetectorState.ValueType(state),
                warn=detector.warn,
                fire=detector.fire,
            )
            for detector, score, position, state in zip(
                detectors,
                found.scores_d.tolist(),
                found.positions_d.tolist(),
                found.states_d.tolist(),
                strict=True,
            )
            if not math.isnan(score) and detector.policy in self.judging.policies
        ]
