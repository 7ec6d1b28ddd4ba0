"""What a test complains about."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from monitor.policy_tests.sending import Sent
from monitor.policy_tests.times import time_text

# Requests that a failure names when it is about many.
_NAMED = 3


@dataclass(frozen=True)
class Scores:
    """A detector around the token that a failure is about; NaN where nothing was judged.

    Attributes:
        positions: of the tokens shown.
        token_scores, scores, states: of each token its own score, the aggregate and the state behind it.
    """

    detector: str
    warn: float
    fire: float
    clear: float
    positions: tuple[int, ...]
    token_scores: tuple[float, ...]
    scores: tuple[float, ...]
    states: tuple[str, ...]


@dataclass(frozen=True)
class Failure:
    """`line` is that of the expectation in the test file, or of the test where something happened unexpectedly; `at` is
    the token that it is about, None where it is about none."""

    line: int
    text: str
    at: int | None
    around: tuple[Scores, ...]


def of_all_requests(found: Iterable[tuple[Sent, Failure]]) -> list[Failure]:
    """What several requests of a test have in common is told once, and which requests they are."""
    together: dict[tuple[int, str], tuple[Failure, list[Sent]]] = {}
    for sent, failure in found:
        together.setdefault((failure.line, failure.text), (failure, []))[1].append(sent)
    return [replace(failure, text=f"{_which(sent)}{failure.text}") for failure, sent in together.values()]


def _which(requests: list[Sent]) -> str:
    if requests[0].entry < 0:
        return ""
    if len(requests) == 1:
        (sent,) = requests
        return f"request {sent.number} ({f'{sent.name}, ' if sent.name else ''}{time_text(sent.time_nanos)}): "
    shown = ", ".join(str(sent.number) for sent in requests[:_NAMED])
    more = f" and {len(requests) - _NAMED} more" if len(requests) > _NAMED else ""
    return f"requests {shown}{more}: "
