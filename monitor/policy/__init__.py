"""Policies: read, checked, compiled, judged. Pure: no I/O, no clock, no torch."""

from monitor.policy.check import check_policy
from monitor.policy.compile import compile_policies, compile_scores, same_names
from monitor.policy.compiled import CompiledDetector, CompiledRule, DirectionRef, PolicySet
from monitor.policy.engine import Firing, Judgement, PolicyEngine
from monitor.policy.fit import fit_mismatch, matches_model
from monitor.policy.parse import parse_policy
from monitor.policy.policy import Policy
from monitor.policy.problem import PolicyError, Problem
from monitor.policy.reasoning import ResponsePhases
from monitor.policy.request_match import RequestFacts, expired_exceptions, holding_exception, judges
from monitor.policy.slots import Peaks
from monitor.policy.sources import DenseProbeInfo, SaeInfo, SaeProbeInfo, Sources
from monitor.policy.tokens import TokenClasses
from monitor.policy.vocabulary import (
    DROP_RULE,
    STALE_RULE,
    TIMEOUT_RULE,
    UNSEEN_RULE,
    DetectorState,
    Mode,
    Phase,
    Severity,
    TokenClass,
)

__all__ = [
    "DROP_RULE",
    "STALE_RULE",
    "TIMEOUT_RULE",
    "UNSEEN_RULE",
    "CompiledDetector",
    "CompiledRule",
    "DenseProbeInfo",
    "DetectorState",
    "DirectionRef",
    "Firing",
    "Judgement",
    "Mode",
    "Peaks",
    "Phase",
    "Policy",
    "PolicyEngine",
    "PolicyError",
    "PolicySet",
    "Problem",
    "RequestFacts",
    "ResponsePhases",
    "SaeInfo",
    "SaeProbeInfo",
    "Severity",
    "Sources",
    "TokenClass",
    "TokenClasses",
    "check_policy",
    "compile_policies",
    "compile_scores",
    "expired_exceptions",
    "fit_mismatch",
    "holding_exception",
    "judges",
    "matches_model",
    "parse_policy",
    "same_names",
]
