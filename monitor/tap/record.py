"""The values that go from the engine's thread to the publisher."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from monitor.tap.drafts import Drafts
from monitor.v1 import tap_pb2

PREFIX_CACHE: int = tap_pb2.GAP_REASON_PREFIX_CACHE
QUEUE_FULL: int = tap_pb2.GAP_REASON_QUEUE_FULL
SIDECAR_LOST: int = tap_pb2.GAP_REASON_SIDECAR_LOST
NO_PLAN: int = tap_pb2.GAP_REASON_NO_PLAN
TAP_ERROR: int = tap_pb2.GAP_REASON_TAP_ERROR


@dataclass(frozen=True, slots=True)
class NewRequest:
    """A request as the engine schedules it for the first time.

    Attributes:
        cache_salt_sha256: of the client's cache salt; empty without one.
        content_keys: (position, key) of what token ids do not tell, such as an image, ascending.
        tenant: whom it is for; empty when it names none.
        fault: what of it could not be read, for the log; it is announced without that.
    """

    request_id: str
    prompt_token_ids: Sequence[int]
    adapter: str = ""
    cache_salt_sha256: bytes = b""
    content_keys: tuple[tuple[int, bytes], ...] = ()
    tenant: str = ""
    fault: str = ""


@dataclass(frozen=True, slots=True)
class RowTable:
    """Which row of this forward pass is which position of which request.

    Attributes:
        request_ids: one per request in the batch, in row order.
        bounds: [requests + 1]; request i owns rows bounds[i] to bounds[i + 1].
        first_positions: [requests]; position of each request's first row.
        token_ids: int32 or int64 [rows or more]: the token fed in; on the engine's device, and reused by the next step.
        drafts: when some rows are draft tokens; their verdict replaces `first_positions` and `rejected`.
        rejected: [requests]; how many of each request's last rows are no positions. None: all are.
    """

    request_ids: Sequence[str]
    bounds: npt.NDArray[np.int32]
    first_positions: npt.NDArray[np.int32]
    token_ids: Any
    drafts: Drafts | None = None
    rejected: npt.NDArray[np.int32] | None = None

    def ends(self) -> dict[str, int]:
        """How many positions of each request are computed behind this step; drafts without a verdict count."""
        totals = self.first_positions + np.diff(self.bounds)
        if self.rejected is not None:
            totals = totals - self.rejected
        return dict(zip(self.request_ids, totals.tolist(), strict=True))


class Begin(NamedTuple):
    handle: int
    request_id: str
    external_id: str
    prompt_token_ids: bytes
    start_unix_nanos: int
    adapter: str
    resumed: bool = False
    cache_salt_sha256: bytes = b""
    content_keys: tuple[tuple[int, bytes], ...] = ()
    tenant: str = ""


class Segment(NamedTuple):
    """Consecutive positions of a request that have rows."""

    handle: int
    first: int
    length: int


class Gap(NamedTuple):
    """Consecutive positions of a request that have none."""

    handle: int
    first: int
    length: int
    reason: int


class End(NamedTuple):
    handle: int
    positions: int
    tail_token_ids: bytes
    end_unix_nanos: int


class HostRows(NamedTuple):
    """What one step's rows hold, on the host: token ids int32 [rows] and per hook point float32 [rows, K]. Where
    residual rows themselves are recorded these are their bytes, uint8 [rows, bytes of a row]."""

    token_ids_n: npt.NDArray[np.int32]
    activations: list[tuple[str, npt.NDArray[Any]]]


class Payload(Protocol):
    """Rows on their way to the host."""

    @property
    def nbytes(self) -> int: ...

    def read(self) -> HostRows:
        """Waits for the copy if there is one; raises when the rows turn out to be unusable."""
        ...


@dataclass(frozen=True, slots=True)
class KeptRows:
    """Some rows of a payload of `total` rows.

    Attributes:
        kept: int64 [n]; which, ascending.
    """

    payload: Payload
    kept: npt.NDArray[np.int64]
    total: int

    @property
    def nbytes(self) -> int:
        # All of it is held until it is sent.
        return self.payload.nbytes

    def read(self) -> HostRows:
        rows = self.payload.read()
        return HostRows(rows.token_ids_n[self.kept], [(name, acts_nk[self.kept]) for name, acts_nk in rows.activations])


@dataclass(slots=True)
class Step:
    """What one forward pass, or a moment between two, has to report. Applied in the order of the fields.

    Segments without a payload become gaps of `missing_because`. `plan_digest` and `plan_version` are of the plan under
    which the payload was encoded.
    """

    time_unix_nanos: int
    begins: list[Begin] = field(default_factory=list)
    gaps: list[Gap] = field(default_factory=list)
    segments: list[Segment] = field(default_factory=list)
    payload: Payload | None = None
    plan_digest: str = ""
    missing_because: int = NO_PLAN
    ends: list[End] = field(default_factory=list)
    plan_version: int = 0
