"""Runs one test through the production engine."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import replace

import numpy as np

from monitor.policy.compiled import CompiledDetector
from monitor.policy.deadlines import deadlines_of, overdue
from monitor.policy.engine import Judgement
from monitor.policy.policy import Policy
from monitor.policy.request_match import RequestFacts, holding_exception
from monitor.policy.score_trace import ScoreJudge, ScoreTrace
from monitor.policy.vocabulary import RESERVED_SEVERITIES, TIMEOUT_RULE, Mode, Phase, TokenClass
from monitor.policy_tests.built_in import told_dropped, told_late, told_unseen
from monitor.policy_tests.follow import Follower, in_time
from monitor.policy_tests.generation import CLASSES, PHASES, SEEN, Generation
from monitor.policy_tests.observed import Observation, ObservedFiring, Verdict
from monitor.policy_tests.schema import Case
from monitor.policy_tests.sending import requests_of
from monitor.policy_tests.series import parse_scores, parse_words, scores_of
from monitor.policy_tests.situation import situation_of


class Observer:
    """One policy, its tests one after the other."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        # A mode in force is the situation's affair; the engine leaves out what is off.
        self._judge = ScoreJudge([replace(policy, mode=Mode.ALERT)])
        self._deadlines = deadlines_of(self._judge.policies)
        self.detectors: dict[str, CompiledDetector] = {one.id: one for one in self._judge.policies.detectors}

    def observe(self, case: Case) -> Observation:
        """`case` must have passed `check_against` this policy."""
        follower, verdicts = Follower(self.policy), dict[int, Verdict]()
        for sent in in_time(requests_of(case)):
            if sent.entry not in verdicts:
                verdicts[sent.entry] = self._verdict(sent.given, case.mode)
            follower.take(sent, verdicts[sent.entry])
        requests = tuple(sorted(follower.requests, key=lambda one: one.sent.number))
        looked_at = case.expect_notifications is not None
        return Observation(requests, follower.notifications() if looked_at else None)

    def _verdict(self, given: Generation, set_mode: str | None) -> Verdict:
        situation = situation_of(self.policy, given, set_mode)
        if not situation.judged:
            return Verdict(situation, None, ())
        trace = self._trace(given)
        seen_p = ["observed"] * trace.positions if given.seen is None else parse_words(given.seen, SEEN)
        for scores_p in trace.scores_p.values():
            scores_p[np.array([word != "observed" for word in seen_p])] = np.nan
        judgement = self._judge.judge(trace)
        passed = overdue(self._deadlines, (given.verdict_after_ms or 0) * 1_000_000)
        late = {deadline.rule for deadline in passed}
        firings = (
            *_built_in(told_unseen(self.policy, seen_p)),
            *self._of_rules(judgement, situation.request, late),
            *_built_in(told_late(self._judge.policies, passed, judgement, trace.phases_p.tolist())),
            *_built_in(told_dropped(self.policy, seen_p)),
        )
        rules = self.policy.document.spec.rules
        return Verdict(situation, judgement, firings, frozenset(rules[index].id for index in late))

    def _of_rules(self, judgement: Judgement, request: RequestFacts, late: Collection[int]) -> Iterator[ObservedFiring]:
        for firing in judgement.firings:
            rule = self.policy.document.spec.rules[firing.rule]
            exception = holding_exception(rule, request)
            yield ObservedFiring(
                at=firing.row,
                rule=rule.id,
                severity=self._judge.policies.rules[firing.rule].severity,
                would_act=() if exception else rule.actions,
                exception=exception,
                late=firing.rule in late,
            )

    def _trace(self, given: Generation) -> ScoreTrace:
        scores_p = {}
        for name, text in (given.tokens or {}).items():
            detector = self.detectors[name]
            levels = {"warn": detector.warn, "fire": detector.fire, "clear": detector.clear}
            scores_p[detector.name] = scores_of(parse_scores(text), levels)
        size = len(next(iter(scores_p.values())))
        if given.phases is not None:
            phases_p = np.array([Phase[word.upper()] for word in parse_words(given.phases, PHASES)], np.uint8)
        elif given.prompt is not None:
            phases_p = np.where(np.arange(size) < given.prompt, Phase.PROMPT, Phase.RESPONSE).astype(np.uint8)
        else:
            judged = [Phase[name.upper()] for name in self.policy.document.spec.match.phases]
            phases_p = np.full(size, min(judged), np.uint8)
        classes_p = None
        if given.classes is not None:
            classes_p = np.array([TokenClass[word.upper()] for word in parse_words(given.classes, CLASSES)], np.uint8)
        return ScoreTrace(scores_p, phases_p, classes_p)


def _built_in(told: Iterable[tuple[str, int]]) -> Iterator[ObservedFiring]:
    for rule, at in told:
        yield ObservedFiring(at, rule, RESERVED_SEVERITIES[rule], late=rule == TIMEOUT_RULE)
