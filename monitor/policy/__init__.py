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
from monitor.policy.snapshots import Peaks
from monitor.policy.sources import DenseProbeInfo, SaeInfo, SaeProbeInfo, Sources
from monitor.policy.tokens import TokenClasses
from monitor.policy.vocabulary import UNSEEN_RULE, DetectorState, Mode, Phase, Severity, TokenClass

__all__ = [
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
    "fit_mismatch",
    "matches_model",
    "parse_policy",
    "same_names",
]
