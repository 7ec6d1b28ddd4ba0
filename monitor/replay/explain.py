"""Why each detector and rule of a policy stood as it did on one generation, token by token."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from monitor.errors import FeaturewatchError
from monitor.policy import CompiledDetector, DetectorState, Mode, Policy
from monitor.policy.schema.rule import Rule
from monitor.policy.truth import Truth, evaluate, is_in, literals
from monitor.policy.vocabulary import RESERVED_RULES
from monitor.policy.when import State, parse_condition
from monitor.replay.known_states import UNKNOWN, known_states
from monitor.replay.other_alerts import OtherAlert, asked_for, other_alerts
from monitor.replay.recorded import Recorded
from monitor.replay.rejudge import rejudge, standing
from monitor.replay.report import recorded_firings
from monitor.replay.same_source import Ingredients

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class RuleView:
    """A rule after each token.

    Attributes:
        terms: the states that its condition names, as written.
        terms_p: the truth of each of them; `value_p` that of the condition; None: not known.
        held_p: judged tokens for which it has held; None: not known.
        fired: exception (or empty) by the position at which it fired.
    """

    rule: Rule
    terms: tuple[str, ...]
    terms_p: list[tuple[Truth, ...]]
    value_p: list[Truth]
    held_p: list[int | None]
    fired: dict[int, str]


@dataclass(frozen=True)
class Span:
    """Tokens from `first` to `last` over which no state and no condition changed."""

    first: int
    last: int


@dataclass(frozen=True)
class Explanation:
    """P tokens, D detectors of one policy.

    Attributes:
        recorded: as it judged the request; otherwise as this policy would have.
        mode: of its alerts, else as file and `fittedOn` give it; OFF where the policy is not for this request.
        reason: why the mode is lower than the file's; empty otherwise.
        detectors: compiled.
        token_scores_pd, scores_pd: NaN where nothing was judged.
        states_pd: codes of `DetectorState`; 0 where it is not known.
        only: the rule that was asked for; empty: all.
        rules: all, or the one that was asked for; of a correlation those that it counts, of a reserved rule none.
        spans: of all tokens, in order; none without rules.
        others: alerts that no rule's condition explains; only of the policy that judged.
        unknown: what cannot be known, one readable line each.
    """

    policy: Policy
    recorded: bool
    mode: Mode
    reason: str
    detectors: tuple[CompiledDetector, ...]
    token_scores_pd: Floats
    scores_pd: Floats
    states_pd: npt.NDArray[np.int8]
    only: str
    rules: tuple[RuleView, ...]
    spans: tuple[Span, ...]
    others: tuple[OtherAlert, ...]
    unknown: tuple[str, ...]


def explain(recorded: Recorded, policy: Policy, made_of: Mapping[str, Ingredients], rule: str = "") -> Explanation:
    """Explains one policy on one generation.

    Args:
        recorded: the generation.
        policy: one that judged it, or another that is to be tried on it.
        made_of: see `rejudge`; not looked at for the recorded policy.
        rule: only this rule, with the detectors that it names; also a correlation or a reserved rule; empty: all.

    Raises:
        NotReplayableError: of another policy, see `rejudge`.
        FeaturewatchError: the policy has no such rule.
    """
    chosen = _chosen(policy, rule)
    was = recorded.policies.get(policy.name)
    own = was is not None and was.sha256 == policy.sha256
    detectors = recorded.shelf.judge([policy]).policies.detectors
    unknown: list[str] = []
    if own:
        token_scores_pd, scores_pd, states_pd = _as_recorded(recorded, policy, detectors, unknown)
        fired = recorded_firings(recorded, policy.name)
        mode, reason = standing(policy, recorded.circumstances)
        modes = [alert.mode for alert in recorded.record.alerts if alert.policy == policy.name and not alert.exception]
        mode = Mode(max(modes)) if modes else mode
    else:
        again = rejudge(policy, recorded, made_of)
        shape = (len(recorded.phases_p), len(detectors))
        token_scores_pd, scores_pd = np.full(shape, np.nan), np.full(shape, np.nan)
        states_pd = np.ones(shape, np.int8)
        if again.judgement is not None:
            token_scores_pd = again.judgement.token_scores_nd.astype(np.float64)
            scores_pd = again.judgement.scores_nd
            states_pd = again.judgement.states_nd
        fired = [(firing.rule.id, firing.position, firing.exception) for firing in again.firings]
        mode, reason = again.mode, again.reason
        if asked := [one for one in asked_for(policy) if rule in ("", one)]:
            unknown.append(f"alerts of {', '.join(asked)}: they are told of the policy that judged only")
    order = {detector.id: d for d, detector in enumerate(detectors)}
    judged_pd = ~np.isnan(token_scores_pd)
    views = tuple(_view(one, order, states_pd, judged_pd, fired) for one in chosen)
    named = sorted({order[name] for one in chosen for name in parse_condition(one.when).detectors})
    kept = named if rule else list(range(len(detectors)))
    return Explanation(
        policy=policy,
        recorded=own,
        mode=mode,
        reason=reason,
        detectors=tuple(detectors[d] for d in kept),
        token_scores_pd=token_scores_pd[:, kept],
        scores_pd=scores_pd[:, kept],
        states_pd=states_pd[:, kept],
        only=rule,
        rules=views,
        spans=_spans(recorded, judged_pd[:, kept], states_pd[:, kept], views) if views else (),
        others=tuple(one for one in other_alerts(recorded, policy) if rule in ("", one.alert.rule)) if own else (),
        unknown=tuple(unknown),
    )


def truth_of(literal: State, states: Mapping[str, int]) -> Truth:
    """Of one state that a condition names; `states` are codes of `DetectorState`, or UNKNOWN, by detector."""
    state = states[literal.detector]
    return None if state == UNKNOWN else is_in(literal, DetectorState(state))


def _chosen(policy: Policy, rule: str) -> Sequence[Rule]:
    spec = policy.document.spec
    named = next((one.rules for one in spec.correlations if one.id == rule), (rule,))
    chosen = [one for one in spec.rules if not rule or one.id in named]
    if not chosen and rule not in RESERVED_RULES:
        known = ", ".join([*(one.id for one in spec.rules), *(one.id for one in spec.correlations)])
        raise FeaturewatchError(f"rule {rule!r} of policy {policy.name}", f"it has {known}", "name one of them")
    return chosen


def _as_recorded(
    recorded: Recorded, policy: Policy, detectors: Sequence[CompiledDetector], unknown: list[str]
) -> tuple[Floats, Floats, npt.NDArray[np.int8]]:
    """Token scores, aggregates and states of the policy that judged; states are judged again where that is sure."""
    size = len(recorded.phases_p)
    token_scores_pd, scores_pd = np.full((size, len(detectors)), np.nan), np.full((size, len(detectors)), np.nan)
    states_pd = np.zeros((size, len(detectors)), np.int8)
    for d, detector in enumerate(detectors):
        if detector.name in recorded.columns:
            column = recorded.columns.index(detector.name)
            token_scores_pd[:, d] = recorded.token_scores_pd[:, column]
            scores_pd[:, d] = recorded.scores_pd[:, column]
    scores_p = {detector.name: token_scores_pd[:, d] for d, detector in enumerate(detectors)}
    judgement = recorded.shelf.judge([policy]).judge(recorded.trace(scores_p))
    for d, detector in enumerate(detectors):
        if detector.name in recorded.incomplete:
            unknown.append(
                f"states of {detector.id} are shown only where they are certain: {recorded.incomplete[detector.name]}"
            )
            states_pd[:, d] = known_states(detector, token_scores_pd[:, d], scores_pd[:, d])
        else:
            states_pd[:, d] = judgement.states_nd[:, d]
    return token_scores_pd, scores_pd, states_pd


def _view(
    rule: Rule,
    order: Mapping[str, int],
    states_pd: npt.NDArray[np.int8],
    judged_pd: npt.NDArray[np.bool_],
    fired: Sequence[tuple[str, int, str]],
) -> RuleView:
    condition = parse_condition(rule.when)
    named = literals(condition)
    columns = [order[name] for name in condition.detectors]
    terms_p, value_p, held_p = list[tuple[Truth, ...]](), list[Truth](), list[int | None]()
    held: int | None = 0
    judged_p = np.asarray(judged_pd[:, columns].any(axis=1))
    for row, judged in zip(states_pd[:, columns].tolist(), judged_p.tolist(), strict=True):
        states = dict(zip(condition.detectors, row, strict=True))
        terms = tuple(truth_of(literal, states) for literal in named)
        value = evaluate(condition, partial(_term, terms))
        if not value:
            held = None if value is None else 0
        elif held is not None:
            held += judged
        terms_p.append(terms)
        value_p.append(value)
        held_p.append(held)
    return RuleView(
        rule=rule,
        terms=tuple(f"{literal.detector}.{literal.state.name.lower()}" for literal in named),
        terms_p=terms_p,
        value_p=value_p,
        held_p=held_p,
        fired={position: exception for name, position, exception in fired if name == rule.id},
    )


def _term(terms: tuple[Truth, ...], number: int, _: State) -> Truth:
    return terms[number]


def _spans(
    recorded: Recorded,
    judged_pd: npt.NDArray[np.bool_],
    states_pd: npt.NDArray[np.int8],
    views: Sequence[RuleView],
) -> tuple[Span, ...]:
    spans = list[Span]()
    before: tuple[object, ...] = ()
    for p in range(len(recorded.phases_p)):
        here = (
            int(recorded.phases_p[p]),
            bool(recorded.observed_p[p]),
            bool(judged_pd[p].any()),
            tuple(states_pd[p].tolist()),
            tuple((view.value_p[p], view.terms_p[p]) for view in views),
            # A token at which a rule fires stands alone.
            tuple(p in view.fired for view in views) if any(p in view.fired for view in views) else (),
        )
        if here == before and not here[-1]:
            spans[-1] = Span(spans[-1].first, p)
        else:
            spans.append(Span(p, p))
        before = here
    return tuple(spans)
