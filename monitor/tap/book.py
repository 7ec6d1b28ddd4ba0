"""Who is being served: request names, handles, and how far each request has been reported."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from monitor.rpc import ints_to_bytes
from monitor.tap.record import PREFIX_CACHE, TAP_ERROR, Begin, End, Gap, NewRequest, RowTable, Segment, Step


@dataclass(slots=True)
class _Live:
    handle: int
    prompt_tokens: int
    # Positions below are reported, as rows or as gaps.
    reported: int = 0
    # Positions below were computed while the tap failed.
    blind: int = 0


class RequestBook:
    """Turns the engine's row tables into segments and gaps so that every position is reported exactly once.

    Positions of a request come in ascending order. What was computed before (preemption) is not reported again; what
    the engine skips came from its prefix cache. Used by the engine's thread only.
    """

    def __init__(self, name_for_client: Callable[[str], str]) -> None:
        self._name_for_client = name_for_client
        self._live: dict[str, _Live] = {}
        self._next_handle = 1

    def __contains__(self, request_id: str) -> bool:
        return request_id in self._live

    def __len__(self) -> int:
        return len(self._live)

    def begin(self, request: NewRequest, step: Step) -> None:
        """Announces a request that is not live."""
        handle, self._next_handle = self._next_handle, self._next_handle + 1
        begin = Begin(
            handle=handle,
            request_id=request.request_id,
            external_id=self._name_for_client(request.request_id),
            prompt_token_ids=ints_to_bytes(np.asarray(request.prompt_token_ids)),
            start_unix_nanos=step.time_unix_nanos,
            adapter=request.adapter,
            cache_salt_sha256=request.cache_salt_sha256,
            content_keys=request.content_keys,
            tenant=request.tenant,
        )
        # Not before: rows of a request that could not be announced are nobody's.
        self._live[request.request_id] = _Live(handle, len(request.prompt_token_ids))
        step.begins.append(begin)

    def rows(self, table: RowTable, step: Step) -> npt.NDArray[np.int64] | None:
        """Adds the step's segments and gaps.

        Returns:
            The rows to send, int64 [kept], or None for all of them.
        """
        bounds, firsts = table.bounds.tolist(), table.first_positions.tolist()
        rejected = table.rejected.tolist() if table.rejected is not None else [0] * len(firsts)
        kept: list[npt.NDArray[np.int64]] = []
        all_kept = True
        for i, request_id in enumerate(table.request_ids):
            start, end, first = bounds[i], bounds[i + 1] - rejected[i], firsts[i]
            all_kept = all_kept and not rejected[i]
            live = self._live.get(request_id)
            if live is None or end == start:
                # A request that began before the tap did; its rows belong to nobody the sidecar knows.
                all_kept = all_kept and end == start
                continue
            if first > live.reported:
                self._report_skipped(live, first, step)
            seen = live.reported - first
            count = end - start - max(seen, 0)
            if seen > 0:
                all_kept = False
            if count <= 0:
                continue
            step.segments.append(Segment(live.handle, live.reported, count))
            kept.append(np.arange(end - count, end, dtype=np.int64))
            live.reported += count
        if all_kept:
            return None
        return np.concatenate(kept) if kept else np.empty(0, np.int64)

    def blind(self, positions: Mapping[str, int]) -> None:
        """Notes positions that were computed while the tap failed: `positions[request]` in total so far."""
        for request_id, total in positions.items():
            live = self._live.get(request_id)
            if live is not None:
                live.blind = max(live.blind, total)

    def end(self, request_id: str, output_token_ids: Sequence[int], step: Step) -> None:
        """Closes a request. Of `output_token_ids` (all that were sampled) those never fed back become its tail."""
        live = self._live.pop(request_id)
        blind = live.blind
        if output_token_ids:
            # `blind` counts all drafts of an unseen step; but no position was computed that no token was sampled for.
            blind = min(blind, live.prompt_tokens + len(output_token_ids) - 1)
        if blind > live.reported:
            self._report_skipped(live, blind, step)
        fed_back = max(live.reported - live.prompt_tokens, 0)
        # Under asynchronous scheduling vLLM keeps -1 where the token is still on the device.
        tail = [token for token in output_token_ids[fed_back:] if token >= 0]
        step.ends.append(End(live.handle, live.reported, ints_to_bytes(np.asarray(tail)), step.time_unix_nanos))

    def end_all(self, outputs: Callable[[str], Sequence[int]], step: Step) -> None:
        """Closes every request, because the engine stops or the tap detaches itself."""
        for request_id in self.request_ids():
            self.end(request_id, outputs(request_id), step)

    def request_ids(self) -> Iterable[str]:
        return list(self._live)

    @staticmethod
    def _report_skipped(live: _Live, until: int, step: Step) -> None:
        lost = min(live.blind, until)
        if lost > live.reported:
            step.gaps.append(Gap(live.handle, live.reported, lost - live.reported, TAP_ERROR))
            live.reported = lost
        if until > live.reported:
            step.gaps.append(Gap(live.handle, live.reported, until - live.reported, PREFIX_CACHE))
            live.reported = until
