"""Compares what a sidecar recorded with what the engine answered and with Hugging Face."""

from __future__ import annotations

from typing import Any

import numpy as np

from monitor.rpc import ints_from_bytes
from monitor.tap.record import PREFIX_CACHE
from support.recording_sidecar import RecordedRequest, RecordingSidecar
from support.reference import Reference, relative_error
from support.stepped_engine import Played, Traced

TOLERANCE = 1e-4


def check_request(
    recorded: RecordedRequest, prompt: list[int], output: list[int], reference: Reference, *, aborted: bool = False
) -> float:
    """Asserts tokens, positions, coverage and residuals of one finished request; returns its relative error.

    `output` is what the client got; of an aborted request the engine may have computed more.
    """
    name = recorded.begin.request_id
    assert recorded.end is not None, name
    tail = ints_from_bytes(recorded.end.tail_token_ids, "tail").tolist()
    assert recorded.prompt == prompt, name
    gaps = sum(count for _, count, _ in recorded.gaps)
    assert recorded.observed + gaps == recorded.end.positions, name
    observed = sorted(recorded.token_ids)
    if aborted:
        answered = prompt + [recorded.token_ids[position] for position in observed if position >= len(prompt)]
        assert (answered[len(prompt) :] + tail)[: len(output)] == output, name
    else:
        answered = prompt + output
        assert recorded.end.positions == len(answered) - 1, name
        assert tail == output[-1:], name
    assert [recorded.token_ids[position] for position in observed] == [answered[position] for position in observed]
    return _check_rows(recorded, answered, reference)


def check_played(recorder: RecordingSidecar, played: Played, reference: Reference, *, tails: bool = True) -> float:
    """Asserts of every request that vLLM's scheduler ran that the sidecar was told exactly what was computed, with the
    right tokens and residuals, and nothing else; returns the largest relative error. Without `tails` the tap does not
    know the tokens that were sampled and never fed back."""
    recorder.wait_for(
        lambda seen: (
            played.requests.keys() <= {request.begin.request_id for request in seen.requests.values() if request.end}
        ),
        "ends",
    )
    assert recorder.breaches == []
    check_recorder(recorder)
    by_id = {recorded.begin.request_id: recorded for recorded in recorder.requests.values()}
    return max(
        (check_traced(by_id[name], traced, reference, tails=tails) for name, traced in played.requests.items()),
        default=0.0,
    )


def check_traced(recorded: RecordedRequest, traced: Traced, reference: Reference, *, tails: bool = True) -> float:
    """Asserts that a request was reported as the scheduler ran it: a row for each position that was computed, with the
    token that was accepted there; a prefix cache gap for each that was not; returns the largest relative error."""
    name, passed = recorded.begin.request_id, traced.passed
    assert recorded.end is not None, name
    assert recorded.prompt == traced.prompt, name
    assert recorded.token_ids == {at: traced.sequence[at] for at, computed in enumerate(passed) if computed}, name
    gaps = [(first + offset, reason) for first, count, reason in recorded.gaps for offset in range(count)]
    assert gaps == [(at, PREFIX_CACHE) for at, computed in enumerate(passed) if not computed], name
    assert recorded.end.positions == len(passed), name
    tail = ints_from_bytes(recorded.end.tail_token_ids, "tail").tolist()
    assert tail == (traced.sampled[max(len(passed) - len(traced.prompt), 0) :] if tails else []), name
    return _check_rows(recorded, traced.sequence, reference)


def check_recorder(recorder: RecordingSidecar) -> int:
    """Asserts that the taps' flight recorders still hold the rows of every request, all of them observed under a plan
    that gives the rows themselves, and that they are the same bit for bit; returns how many."""
    captures = [(request, recorder.capture(handle, tap=tap)) for (tap, handle), request in recorder.requests.items()]
    recorder.wait_for(lambda seen: all(capture.done for _, capture in captures), "captures")
    rows = 0
    for request, capture in captures:
        name = request.begin.request_id
        assert capture.rows.keys() == request.rows.keys(), name
        for hook_point, observed in request.rows.items():
            held = capture.rows[hook_point]
            assert held.keys() == observed.keys(), f"{name} at {hook_point}"
            assert all(np.array_equal(held[position], row_d) for position, row_d in observed.items()), name
            rows += len(held)
    assert recorder.breaches == []
    return rows


def check_no_other_layer(recorded: RecordedRequest, sequence: list[int], reference: Reference) -> None:
    """Asserts that no row could be that of another layer, of the embedding or of the final norm, not even roughly."""
    for hook_point in recorded.rows:
        positions, residuals_nd = recorded.stack(hook_point)
        around_lnd = reference.surroundings(sequence[: max(positions) + 1])[:, positions]
        mine = int(hook_point.removeprefix("resid_post.")) + 1
        for other in set(range(len(around_lnd))) - {mine}:
            distance_n = np.linalg.norm(residuals_nd - around_lnd[other], axis=-1)
            share_n = distance_n / np.linalg.norm(around_lnd[other], axis=-1)
            assert share_n.min() > 1000 * TOLERANCE, f"{hook_point} is near site {other}: {share_n.min():.1e}"


def _check_rows(recorded: RecordedRequest, answered: list[int], reference: Reference) -> float:
    """Compares a request's residuals, if any, with those of its tokens; returns the largest relative error."""
    name, observed = recorded.begin.request_id, sorted(recorded.token_ids)
    if not observed:
        return 0.0
    expected_lnd = reference.residuals(answered[: max(observed) + 1])
    worst = 0.0
    for hook_point in recorded.rows:
        positions, residuals_nd = recorded.stack(hook_point)
        assert positions == observed, f"{name} at {hook_point}"
        layer = int(hook_point.removeprefix("resid_post."))
        worst = max(worst, relative_error(residuals_nd, expected_lnd[layer][positions]))
    assert worst <= TOLERANCE, f"{name}: relative error {worst:.1e}"
    return worst


def check_all(
    sidecar: RecordingSidecar, requests: list[dict[str, Any]], outputs: dict[str, list[list[int]]], reference: Reference
) -> float:
    """`check_request` for every completion of every request; returns the largest relative error."""
    assert sidecar.breaches == []
    worst = 0.0
    for request in requests:
        recorded = sidecar.named(request["id"])
        assert len(recorded) == request.get("n", 1), request["id"]
        for completion, output in zip(recorded, outputs[request["id"]], strict=True):
            aborted = "abort_after" in request
            worst = max(worst, check_request(completion, request["prompt"], output, reference, aborted=aborted))
    return worst


def mixed_requests(seed: int, count: int, *, longest: int = 150) -> list[dict[str, Any]]:
    """Requests of many lengths that join and leave at different steps: short, longer than a prefill chunk, single
    tokens, two completions each (n = 2), one that the client aborts."""
    random = np.random.default_rng(seed)
    requests: list[dict[str, Any]] = []
    for index in range(count):
        length = int(random.choice([1, 2, 5, 17, 40, 63, 64, 65, 100, longest]))
        requests.append(
            {
                "id": f"mixed-{seed}-{index}",
                "prompt": random.integers(4, 1000, length).tolist(),
                "max_tokens": int(random.integers(1, 40)),
            }
        )
    requests[1] |= {"n": 2, "temperature": 1.0, "max_tokens": 20}
    requests[2] |= {"n": 2, "temperature": 1.0, "max_tokens": 9}
    requests[3] |= {"max_tokens": 300, "abort_after": 5}
    return requests
