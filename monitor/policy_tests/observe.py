"""Runs one test through the production engine."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from monitor.policy.compiled import CompiledDetector
from monitor.policy.engine import Judgement
from monitor.policy.policy import Policy
from monitor.policy.request_match import holding_exception
from monitor.policy.score_trace import ScoreJudge, ScoreTrace
from monitor.policy.vocabulary import Mode, Phase, TokenClass
from monitor.policy_tests.schema import CLASSES, PHASES, Case
from monitor.policy_tests.series import parse_scores, parse_words, scores_of
from monitor.policy_tests.situation import Situation, situation_of


@dataclass(frozen=True)
class ObservedFiring:
    """A rule began to fire.

    Attributes:
        would_act: what is done in mode alert or higher; empty where an exception holds.
        exception: name of the one that holds, empty when none does.
    """

    at: int
    rule: str
    would_act: tuple[str, ...]
    exception: str


@dataclass(frozen=True)
class Observation:
    """What a policy made of one test.

    Attributes:
        judgement: rows are tokens, columns the policy's detectors in their order; None where it does not judge.
        firings: in order of tokens.
    """

    situation: Situation
    judgement: Judgement | None
    firings: tuple[ObservedFiring, ...]


class Observer:
    """One policy, its tests one after the other."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        # A mode in force is the situation's affair; the engine leaves out what is off.
        self._judge = ScoreJudge([replace(policy, mode=Mode.ALERT)])
        self.detectors: dict[str, CompiledDetector] = {one.id: one for one in self._judge.policies.detectors}

    def observe(self, case: Case) -> Observation:
        """`case` must have passed `parse.check_against` this policy."""
        situation = situation_of(self.policy, case)
        if not situation.judged:
            return Observation(situation, None, ())
        judgement = self._judge.judge(self._trace(case))
        rules = self.policy.document.spec.rules
        firings = []
        for firing in judgement.firings:
            rule = rules[firing.rule]
            exception = holding_exception(rule, situation.request)
            firings.append(ObservedFiring(firing.row, rule.id, () if exception else rule.actions, exception))
        return Observation(situation, judgement, tuple(firings))

    def _trace(self, case: Case) -> ScoreTrace:
        scores_p = {}
        for name, text in case.tokens.items():
            detector = self.detectors[name]
            levels = {"warn": detector.warn, "fire": detector.fire, "clear": detector.clear}
            scores_p[detector.name] = scores_of(parse_scores(text), levels)
        size = len(next(iter(scores_p.values())))
        if case.phases is not None:
            phases_p = np.array([Phase[word.upper()] for word in parse_words(case.phases, PHASES)], np.uint8)
        elif case.prompt is not None:
            phases_p = np.where(np.arange(size) < case.prompt, Phase.PROMPT, Phase.RESPONSE).astype(np.uint8)
        else:
            judged = [Phase[name.upper()] for name in self.policy.document.spec.match.phases]
            phases_p = np.full(size, min(judged), np.uint8)
        classes_p = None
        if case.classes is not None:
            classes_p = np.array([TokenClass[word.upper()] for word in parse_words(case.classes, CLASSES)], np.uint8)
        return ScoreTrace(scores_p, phases_p, classes_p)
