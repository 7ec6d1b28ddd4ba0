"""monitor.v1.PolicyService: which policies are in force, where, and what they have done."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Final, NoReturn

import grpc

from monitor.errors import FeaturewatchError
from monitor.policy import Mode as PolicyMode
from monitor.policy import Policy, PolicyError, Problem, check_policy, parse_policy
from monitor.rpc import abort
from monitor.sidecar.plan import check_for_engine
from monitor.sidecar.policy_book import PolicyBook
from monitor.sidecar.taps import Taps
from monitor.v1.alerts_pb2 import Mode
from monitor.v1.engine_pb2 import EngineInfo
from monitor.v1.policies_pb2 import (
    CheckPolicyRequest,
    CheckPolicyResponse,
    GetPolicyRequest,
    GetPolicyResponse,
    ListPoliciesRequest,
    ListPoliciesResponse,
    ListPolicyEventsRequest,
    ListPolicyEventsResponse,
    PolicyProblem,
    PolicyStatus,
    ReloadPoliciesRequest,
    ReloadPoliciesResponse,
    SetPolicyModeRequest,
    SetPolicyModeResponse,
)
from monitor.v1.policies_pb2_grpc import PolicyServiceServicer

# Reading YAML takes seconds for a text of some hundred kilobytes.
LARGEST_POLICY: Final = 64 * 1024


class PolicyService(PolicyServiceServicer):
    def __init__(self, book: PolicyBook, taps: Taps) -> None:
        self._book = book
        self._taps = taps

    async def ListPolicies(  # noqa: N802
        self,
        _request: ListPoliciesRequest,
        _context: grpc.aio.ServicerContext[ListPoliciesRequest, ListPoliciesResponse],
    ) -> ListPoliciesResponse:
        return ListPoliciesResponse(
            policies=[self._status(policy) for policy in self._book.policies],
            plan_version=self._taps.plan_version,
            taps=[tap.status() for tap in self._taps],
        )

    async def GetPolicy(  # noqa: N802
        self, request: GetPolicyRequest, context: grpc.aio.ServicerContext[GetPolicyRequest, GetPolicyResponse]
    ) -> GetPolicyResponse:
        try:
            policy = self._book.policy(request.name)
        except FeaturewatchError as error:
            await abort(context, grpc.StatusCode.NOT_FOUND, "UNKNOWN_POLICY", error)
        return GetPolicyResponse(status=self._status(policy), source=policy.source)

    async def CheckPolicy(  # noqa: N802
        self, request: CheckPolicyRequest, context: grpc.aio.ServicerContext[CheckPolicyRequest, CheckPolicyResponse]
    ) -> CheckPolicyResponse:
        size = len(request.source.encode())
        if size > LARGEST_POLICY:
            error = FeaturewatchError(
                f"policy text of {size} bytes", f"it is at most {LARGEST_POLICY}", "check a smaller policy"
            )
            await abort(context, grpc.StatusCode.INVALID_ARGUMENT, "POLICY_TOO_LARGE", error)
        engines = [tap.hello.engine for tap in self._taps]
        # Frames must not wait for the parser, nor for SAEs that are read here for the first time.
        return await asyncio.to_thread(self._check, request, engines)

    async def ReloadPolicies(  # noqa: N802
        self,
        _request: ReloadPoliciesRequest,
        context: grpc.aio.ServicerContext[ReloadPoliciesRequest, ReloadPoliciesResponse],
    ) -> ReloadPoliciesResponse:
        await _unavailable(context, "ReloadPolicies")

    async def SetPolicyMode(  # noqa: N802
        self,
        _request: SetPolicyModeRequest,
        context: grpc.aio.ServicerContext[SetPolicyModeRequest, SetPolicyModeResponse],
    ) -> SetPolicyModeResponse:
        await _unavailable(context, "SetPolicyMode")

    async def ListPolicyEvents(  # noqa: N802
        self,
        _request: ListPolicyEventsRequest,
        context: grpc.aio.ServicerContext[ListPolicyEventsRequest, ListPolicyEventsResponse],
    ) -> ListPolicyEventsResponse:
        await _unavailable(context, "ListPolicyEvents")

    def _check(self, request: CheckPolicyRequest, engines: Sequence[EngineInfo]) -> CheckPolicyResponse:
        try:
            policy = parse_policy(request.source, request.file or "<policy>")
        except PolicyError as error:
            return CheckPolicyResponse(problems=map(_problem, error.problems))
        problems = check_policy(policy, self._book.sources)
        for engine in engines:
            problems += check_for_engine(policy, self._book.sources, engine)
        return CheckPolicyResponse(problems=map(_problem, dict.fromkeys(problems)))

    def _status(self, policy: Policy) -> PolicyStatus:
        mode, reason = self._in_force(policy)
        ledger = self._taps.ledger
        return PolicyStatus(
            name=policy.name,
            revision=policy.revision,
            sha256=policy.sha256,
            file=policy.file,
            mode=Mode.ValueType(int(policy.mode)),
            effective_mode=Mode.ValueType(int(mode)),
            reason=reason,
            detectors=[detector.id for detector in policy.document.spec.detectors],
            rules=[rule.id for rule in policy.document.spec.rules],
            rows_judged=ledger.rows_judged[policy.name],
            alerts=ledger.alerts[policy.name],
            shadow_alerts=ledger.shadow_alerts[policy.name],
        )

    def _in_force(self, policy: Policy) -> tuple[PolicyMode, str]:
        """The lowest mode over all taps that serve it, and what keeps it lower or away."""
        mode, reasons = policy.mode, []
        for tap in self._taps:
            served = tap.plan.served.get(policy.name)
            if served is not None and served.reason:
                mode = min(mode, served.mode)
                reasons.append(f"tap {tap.hello.tap_id}: {served.reason}")
            elif policy.name in tap.plan.unserved:
                reasons.append(f"tap {tap.hello.tap_id} cannot serve it: {tap.plan.unserved[policy.name]}")
        return mode, "; ".join(reasons)


async def _unavailable(context: grpc.aio.ServicerContext[Any, Any], call: str) -> NoReturn:
    error = FeaturewatchError(call, "this sidecar reads policies only at its start", "restart it")
    await abort(context, grpc.StatusCode.UNIMPLEMENTED, "NOT_AT_RUN_TIME", error)


def _problem(problem: Problem) -> PolicyProblem:
    return PolicyProblem(
        file=problem.file,
        line=problem.line,
        field=problem.field,
        value=problem.value,
        rule=problem.rule,
        remedy=problem.remedy,
    )
