"""Finds the one generation that an id or the beginning of an id means."""

from __future__ import annotations

from collections.abc import Iterable

from monitor.errors import FeaturewatchError
from monitor.v1.generations_pb2 import GenerationSummary

_SHOWN = 5


class UnknownIdError(FeaturewatchError):
    """No generation has this id."""


class AmbiguousIdError(FeaturewatchError):
    """Several generations have this id or this beginning of one."""


def resolve(id_: str, candidates: Iterable[GenerationSummary]) -> str:
    """The generation_id meant by `id_`: a generation_id, request_id, external_id or an unambiguous beginning of one.

    A whole id wins over a beginning. Raises UnknownIdError or AmbiguousIdError.
    """
    if not id_:
        raise UnknownIdError(
            "generation ''", "an id must not be empty", "list the known ones with `featurewatch audit list --all`"
        )
    by_id = {summary.generation_id: summary for summary in candidates}
    whole = [s for s in by_id.values() if id_ in _ids(s)]
    matches = whole or [s for s in by_id.values() if any(name.startswith(id_) for name in _ids(s))]
    if not matches:
        raise UnknownIdError(
            f"generation {id_!r}",
            "no such generation: flagged ones are stored, of the others only the latest are kept in memory",
            "list the known ones with `featurewatch audit list --all`",
        )
    if len(matches) > 1:
        shown = ", ".join(f"{s.generation_id} (request {s.request_id})" for s in matches[:_SHOWN])
        more = f" and {len(matches) - _SHOWN} more" if len(matches) > _SHOWN else ""
        raise AmbiguousIdError(
            f"generation id {id_!r}",
            f"{len(matches)} generations match: {shown}{more}",
            "give more of the id, or a whole generation id",
        )
    return matches[0].generation_id


def _ids(summary: GenerationSummary) -> tuple[str, str, str]:
    return summary.generation_id, summary.request_id, summary.external_id
