"""monitor.v1.PolicyService: which policies are in force, where, what they have done, and how that is changed."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

import grpc

from monitor.errors import FeaturewatchError
from monitor.policy import Policy, PolicyError, check_policy, parse_policy
from monitor.rpc import abort
from monitor.sidecar.plan import check_for_engine
from monitor.sidecar.policy_audit import PolicyAudit
from monitor.sidecar.policy_calls import cause_of, limit_of, mode_of, problem_message
from monitor.sidecar.policy_status import policy_status
from monitor.sidecar.rollout import Rollout
from monitor.sidecar.taps import Taps
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
    PolicyStatus,
    ReloadPoliciesRequest,
    ReloadPoliciesResponse,
    SetPolicyModeRequest,
    SetPolicyModeResponse,
)
from monitor.v1.policies_pb2_grpc import PolicyServiceServicer

# Reading YAML takes seconds for a text of some hundred kilobytes.
LARGEST_POLICY: Final = 64 * 1024
BAD_REQUEST: Final = "BAD_REQUEST"
UNKNOWN_POLICY: Final = "UNKNOWN_POLICY"


class PolicyService(PolicyServiceServicer):
    def __init__(self, rollout: Rollout, taps: Taps, audit: PolicyAudit) -> None:
        self._rollout = rollout
        self._taps = taps
        self._audit = audit

    async def ListPolicies(  # noqa: N802
        self,
        _request: ListPoliciesRequest,
        _context: grpc.aio.ServicerContext[ListPoliciesRequest, ListPoliciesResponse],
    ) -> ListPoliciesResponse:
        return ListPoliciesResponse(
            policies=await self._statuses(self._rollout.current.book.policies),
            plan_version=self._taps.policies.plan_version,
            taps=[tap.status() for tap in self._taps],
            refused=map(problem_message, self._rollout.refused),
        )

    async def GetPolicy(  # noqa: N802
        self, request: GetPolicyRequest, context: grpc.aio.ServicerContext[GetPolicyRequest, GetPolicyResponse]
    ) -> GetPolicyResponse:
        try:
            policy = self._rollout.policy(request.name)
        except FeaturewatchError as error:
            if self._rollout.refused:
                # It may be one of those that are not in force.
                remedy = f"{error.remedy}; the policy files are refused, `featurewatch policy status` says why"
                error = FeaturewatchError(error.subject, error.rule, remedy)
            await abort(context, grpc.StatusCode.NOT_FOUND, UNKNOWN_POLICY, error)
        return GetPolicyResponse(
            status=(await self._statuses([policy]))[0],
            source=policy.source,
            refused=map(problem_message, self._rollout.refused),
        )

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
        request: ReloadPoliciesRequest,
        context: grpc.aio.ServicerContext[ReloadPoliciesRequest, ReloadPoliciesResponse],
    ) -> ReloadPoliciesResponse:
        try:
            cause = cause_of(request.actor, request.reason, context, need_reason=False)
        except FeaturewatchError as error:
            await abort(context, grpc.StatusCode.INVALID_ARGUMENT, BAD_REQUEST, error)
        # A caller that goes away must not leave a change half made.
        done = await asyncio.shield(self._rollout.reload(cause))
        return ReloadPoliciesResponse(events=done.events, problems=map(problem_message, done.problems))

    async def SetPolicyMode(  # noqa: N802
        self,
        request: SetPolicyModeRequest,
        context: grpc.aio.ServicerContext[SetPolicyModeRequest, SetPolicyModeResponse],
    ) -> SetPolicyModeResponse:
        try:
            self._rollout.policy(request.policy)
        except FeaturewatchError as error:
            await abort(context, grpc.StatusCode.NOT_FOUND, UNKNOWN_POLICY, error)
        try:
            cause = cause_of(request.actor, request.reason, context, need_reason=True)
            mode = mode_of(request.mode)
        except FeaturewatchError as error:
            await abort(context, grpc.StatusCode.INVALID_ARGUMENT, BAD_REQUEST, error)
        try:
            await asyncio.shield(self._rollout.set_mode(request.policy, mode, cause))
            policy = self._rollout.policy(request.policy)
        except FeaturewatchError as error:
            await abort(context, grpc.StatusCode.FAILED_PRECONDITION, "MODE_NOT_SET", error)
        return SetPolicyModeResponse(status=(await self._statuses([policy]))[0])

    async def ListPolicyEvents(  # noqa: N802
        self,
        request: ListPolicyEventsRequest,
        context: grpc.aio.ServicerContext[ListPolicyEventsRequest, ListPolicyEventsResponse],
    ) -> ListPolicyEventsResponse:
        try:
            limit = limit_of(request.limit)
        except FeaturewatchError as error:
            await abort(context, grpc.StatusCode.INVALID_ARGUMENT, BAD_REQUEST, error)
        try:
            events = await asyncio.to_thread(self._audit.find, request.policy, request.since_unix_nanos, limit)
        except FeaturewatchError as error:
            await abort(context, grpc.StatusCode.UNAVAILABLE, "STORE_FAILED", error)
        return ListPolicyEventsResponse(events=events)

    async def _statuses(self, policies: Sequence[Policy]) -> list[PolicyStatus]:
        def work() -> list[PolicyStatus]:
            return [policy_status(policy, self._rollout.current, self._taps) for policy in policies]

        return await self._taps.between_frames(work)

    def _check(self, request: CheckPolicyRequest, engines: Sequence[EngineInfo]) -> CheckPolicyResponse:
        try:
            policy = parse_policy(request.source, request.file or "<policy>")
        except PolicyError as error:
            return CheckPolicyResponse(problems=map(problem_message, error.problems))
        sources = self._rollout.current.book.sources
        problems = check_policy(policy, sources)
        for engine in engines:
            problems += check_for_engine(policy, sources, engine)
        return CheckPolicyResponse(problems=map(problem_message, dict.fromkeys(problems)))
