"""An engine with a prefix cache, in miniature: requests whose activations are a function of their tokens, cut into
frames with gaps, and a model of which of them a store of prefixes must know."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from monitor.policy import (
    DenseProbeInfo,
    Mode,
    SaeInfo,
    SaeProbeInfo,
    TokenClasses,
    compile_policies,
    parse_policy,
)
from monitor.rpc import floats_to_bytes, ints_to_bytes
from monitor.sidecar.frame_rows import HookColumns
from monitor.sidecar.history import HistoryPool
from monitor.sidecar.judge import TapJudge
from monitor.sidecar.ledger import PolicyLedger
from monitor.sidecar.plan import ServedPolicy, TapPlan
from monitor.sidecar.prefix.states import PrefixStates
from monitor.sidecar.tokenizer import TokenReader
from monitor.v1.engine_pb2 import EngineInfo
from monitor.v1.tap_pb2 import (
    ContentKey,
    Gap,
    GapReason,
    HookActivations,
    HookPlan,
    RequestBegin,
    RequestEnd,
    StepFrame,
    WatchPlan,
)

HOOK, NUM_LATENTS = "resid_post.1", 4
#: Tokens 1 to 5 are a chat template's, the last two enclose reasoning.
_WORDS = ("<s>", "<|im_start|>", "<|im_end|>", "system", "user", "Ċ", "a", "b", "c", "d", "<think>", "</think>")
_TOKENIZER = {
    "model": {"vocab": {word: index for index, word in enumerate(_WORDS)}},
    "added_tokens": [{"id": index, "content": _WORDS[index], "special": True} for index in (0, 1, 2, 10, 11)],
}
CLASSES = TokenClasses.from_tokenizer_json(_TOKENIZER)
PREFIX, QUEUE_FULL = GapReason.GAP_REASON_PREFIX_CACHE, GapReason.GAP_REASON_QUEUE_FULL


class OneSae:
    def sae(self, sae_id: str) -> SaeInfo:
        return SaeInfo(HOOK, NUM_LATENTS, 8, "a" * 64)

    def dense_probe(self, file: str) -> DenseProbeInfo:
        raise AssertionError(file)

    def sae_probe(self, file: str) -> SaeProbeInfo:
        raise AssertionError(file)


def plan_of(texts: Sequence[str], version: int = 1) -> TapPlan:
    """What a tap watches under policies over the latents of one SAE."""
    policies = [parse_policy(text) for text in texts]
    compiled = compile_policies(policies, OneSae())
    count = len(compiled.directions)
    return TapPlan(
        served={policy.name: ServedPolicy(policy, Mode(policy.mode), "") for policy in policies},
        unserved={},
        policies=compiled,
        hooks=(HookColumns(HOOK, count),),
        watch_plan=WatchPlan(version=version, hooks=[HookPlan(hook_point=HOOK, width=8, count=count)]),
        provenance=(),
    )


def judge_of(
    plan: TapPlan,
    states: PrefixStates,
    block_size: int,
    tap_id: str = "tap",
    *,
    ledger: PolicyLedger | None = None,
    clock: Callable[[], int] = lambda: 1,
) -> TapJudge:
    return TapJudge(
        tap_id=tap_id,
        session_id="session",
        engine_info=EngineInfo(model="tiny", prefix_block_size=block_size),
        plan=plan,
        reader=TokenReader(CLASSES, None),
        ledger=ledger or PolicyLedger(),
        history=HistoryPool(1 << 20, len(plan.policies.detectors)),
        prefix_states=states,
        clock=clock,
    )


@dataclass
class Request:
    """Tokens that the engine computes: the prompt's, then those of the response that are fed back."""

    handle: int
    prompt: Sequence[int]
    response: Sequence[int]
    adapter: str = ""
    salt: bytes = b""
    content: tuple[tuple[int, bytes], ...] = ()
    # Some activations are not finite.
    odd: bool = False
    tenant: str = ""

    @property
    def tokens(self) -> tuple[int, ...]:
        return (*self.prompt, *self.response)

    def acts(self, first: int, last: int, plan: TapPlan) -> npt.NDArray[np.float32]:
        """Of positions [first, last): each a function of all that came before it."""
        values = np.empty((last - first, NUM_LATENTS), np.float32)
        for row, position in enumerate(range(first, last)):
            digest = hashlib.sha256(repr(self.identity(position + 1)).encode()).digest()
            values[row] = np.frombuffer(digest[:NUM_LATENTS], np.int8).astype(np.float32) / 32
            if self.odd and digest[8] < 8:
                values[row, digest[9] % NUM_LATENTS] = np.nan
        return values[:, [ref.index for ref in plan.policies.directions]]

    def identity(self, end: int) -> tuple[object, ...]:
        """What tells the first `end` tokens from others."""
        content = tuple(entry for entry in self.content if entry[0] < end)
        return self.adapter, self.salt, content, self.tokens[:end]

    def begin(self) -> RequestBegin:
        return RequestBegin(
            handle=self.handle,
            request_id=f"request-{self.handle}",
            prompt_token_ids=ints_to_bytes(np.array(self.prompt, np.int32)),
            adapter=self.adapter,
            tenant=self.tenant,
            cache_salt_sha256=self.salt,
            content_keys=[ContentKey(position=position, key=key) for position, key in self.content],
        )

    def end(self) -> RequestEnd:
        return RequestEnd(handle=self.handle, positions=len(self.tokens))


@dataclass(frozen=True)
class Piece:
    """Positions [first, last) of a request: rows, or a gap."""

    request: Request
    first: int
    last: int
    gap: GapReason.ValueType | None = None


def frame(plan: TapPlan, seq: int, pieces: Sequence[Piece]) -> StepFrame:
    """One step; requests begin with their first position and end with their last."""
    rows = [piece for piece in pieces if piece.gap is None]
    acts = [piece.request.acts(piece.first, piece.last, plan) for piece in rows]
    values = np.concatenate(acts) if acts else np.zeros((0, len(plan.policies.directions)), np.float32)
    tokens = [token for piece in rows for token in piece.request.tokens[piece.first : piece.last]]
    return StepFrame(
        seq=seq,
        plan_version=plan.watch_plan.version,
        begins=[piece.request.begin() for piece in pieces if piece.first == 0],
        gaps=[
            Gap(
                handle=piece.request.handle,
                first_position=piece.first,
                count=piece.last - piece.first,
                reason=piece.gap,
            )
            for piece in pieces
            if piece.gap is not None
        ],
        handles=[piece.request.handle for piece in rows],
        first_positions=[piece.first for piece in rows],
        row_counts=[piece.last - piece.first for piece in rows],
        token_ids=ints_to_bytes(np.array(tokens, np.int32)),
        activations=[HookActivations(hook_point=HOOK, values=floats_to_bytes(values))] if rows else [],
        ends=[piece.request.end() for piece in pieces if piece.last == len(piece.request.tokens)],
    )


@dataclass
class Expected:
    """What becomes of one request's positions: "observed", "restored" or "hole" each."""

    request: Request
    fates: list[str] = field(default_factory=list)
    as_cold: bool = True
    # Tokens from here on are not known to the sidecar: a gap of the response brings none.
    unknown: int | None = None


class Model:
    """Which prefixes are known, in the plainest form: a set of what tells them apart."""

    def __init__(self, plan: TapPlan, block_size: int) -> None:
        self._plan = plan
        self._block_size = block_size
        self._apart = any(len(detector.phases) < 3 for detector in plan.policies.detectors)
        self._known: set[tuple[object, ...]] = set()

    def step(self, pieces: Sequence[Piece], expected: Mapping[int, Expected]) -> None:
        """One frame. What a request takes out of the cache another one may compute in the same step."""
        waiting: dict[int, list[Piece]] = {}
        for piece in pieces:
            waiting.setdefault(piece.request.handle, []).append(piece)
        while waiting:
            ready = [
                handle
                for handle, own in waiting.items()
                if all(self._is_known(piece, expected[handle]) for piece in own if piece.gap == PREFIX)
            ]
            now = [piece for handle in ready or [*waiting] for piece in waiting.pop(handle)]
            for piece in sorted(now, key=lambda piece: piece.gap is None):
                self._take(piece, expected[piece.request.handle])

    def _is_known(self, piece: Piece, expected: Expected) -> bool:
        ends = [end for end in self._ends(piece, expected) if end % self._block_size == 0]
        return not ends or self._key(piece.request, ends[-1]) in self._known

    def _ends(self, piece: Piece, expected: Expected) -> range:
        """Where prefixes may end that a gap can be restored to: within the tokens that are known."""
        limit = min(piece.last, max(len(piece.request.prompt), piece.first))
        return range(piece.first + 1, (limit if expected.unknown is None else min(limit, expected.unknown)) + 1)

    def _take(self, piece: Piece, expected: Expected) -> None:
        request = piece.request
        if piece.gap is None:
            finite_n = np.isfinite(request.acts(piece.first, piece.last, self._plan)).all(axis=1)
            for position, finite in zip(range(piece.first, piece.last), finite_n.tolist(), strict=True):
                expected.fates.append("observed" if finite else "hole")
                expected.as_cold = expected.as_cold and finite
                if expected.as_cold and (position + 1) % self._block_size == 0 and expected.unknown is None:
                    self._known.add(self._key(request, position + 1))
            return
        found = 0
        if piece.gap == PREFIX:
            ends = self._ends(piece, expected)
            found = max((end for end in ends if self._key(request, end) in self._known), default=0)
        if found:
            expected.fates += ["restored"] * (found - piece.first)
            expected.as_cold = True
        if max(found, piece.first) < piece.last:
            expected.fates += ["hole"] * (piece.last - max(found, piece.first))
            expected.as_cold = False
        if piece.last > len(request.prompt) and expected.unknown is None:
            expected.unknown = max(piece.first, len(request.prompt))

    def _key(self, request: Request, end: int) -> tuple[object, ...]:
        return end, max(end - len(request.prompt), 0) if self._apart else 0, request.identity(end)
