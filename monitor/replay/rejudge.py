"""One policy judges one recorded generation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from monitor.errors import FeaturewatchError
from monitor.policy import Judgement, Mode, Policy, fit_mismatch, matches_model
from monitor.policy.request_match import RequestFacts, holding_exception, judges
from monitor.policy.schema.rule import Rule
from monitor.replay.recorded import Circumstances, Recorded
from monitor.replay.same_source import Ingredients, recorded_column


class NotReplayableError(FeaturewatchError):
    """The record does not have what the policy would look at; `rule` says what."""


@dataclass(frozen=True)
class ReplayedFiring:
    """A rule would have begun to fire at a position; `exception` is the one that holds, empty when none does."""

    position: int
    rule: Rule
    exception: str


@dataclass(frozen=True)
class Rejudged:
    """What a policy makes of a record.

    Attributes:
        mode: in which it would have been, as `fittedOn` allows; OFF: it is not for this request, `reason` says why.
        judgement: rows are positions, columns the policy's detectors; None where it does not judge.
        firings: in order of positions.
    """

    policy: Policy
    mode: Mode
    reason: str
    judgement: Judgement | None
    firings: tuple[ReplayedFiring, ...]


def rejudge(policy: Policy, recorded: Recorded, made_of: Mapping[str, Ingredients]) -> Rejudged:
    """Judges a record again, by the production engine over the recorded token scores.

    A policy in mode off is judged as if in shadow: one asks what it would do.

    Args:
        policy: any policy; its name finds its own columns first.
        recorded: the record.
        made_of: by detector id.

    Raises:
        NotReplayableError: token scores of one of its detectors are not in the record.
    """
    mode, reason = standing(policy, recorded.circumstances)
    if mode is Mode.OFF:
        return Rejudged(policy, mode, reason, None, ())
    scores_p = {}
    for detector in policy.document.spec.detectors:
        column, why = recorded_column(policy, detector, recorded, made_of.get(detector.id, {}))
        if column < 0:
            subject = f"generation {recorded.id}, detector {policy.name}/{detector.id}"
            raise NotReplayableError(subject, why, "look at generations that were recorded with this detector")
        scores_p[f"{policy.name}/{detector.id}"] = recorded.token_scores_pd[:, column]
    judgement = recorded.shelf.judge([policy]).judge(recorded.trace(scores_p))
    rules, request = policy.document.spec.rules, _request(recorded.circumstances)
    firings = [
        ReplayedFiring(firing.row, rules[firing.rule], holding_exception(rules[firing.rule], request))
        for firing in judgement.firings
    ]
    return Rejudged(policy, mode, reason, judgement, tuple(firings))


def standing(policy: Policy, circumstances: Circumstances) -> tuple[Mode, str]:
    """The mode that the file and `fittedOn` give a policy on a request, and why it is lower than the file's; OFF where
    `match` leaves the request out."""
    match = policy.document.spec.match
    if not any(matches_model(policy, name) for name in circumstances.models):
        return Mode.OFF, f"match.models ({', '.join(match.models)}) does not fit {' or '.join(circumstances.models)}"
    if not judges(policy, circumstances.tenant, circumstances.request_id):
        return Mode.OFF, "match.tenants or match.sample leaves it out"
    mode = max(policy.mode, Mode.SHADOW)
    mismatch = fit_mismatch(policy, circumstances.serving)
    return (min(mode, Mode.SHADOW), "; ".join(mismatch)) if mismatch else (mode, "")


def _request(circumstances: Circumstances) -> RequestFacts:
    return RequestFacts(circumstances.tenant, circumstances.models, circumstances.adapter, circumstances.day)
