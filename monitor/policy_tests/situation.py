"""What a test says of serving and request, decided by the functions that the sidecar decides with."""

from __future__ import annotations

from dataclasses import dataclass

from monitor.policy.fit import fit_mismatch, matches_model
from monitor.policy.policy import Policy
from monitor.policy.request_match import RequestFacts, fits_name, in_sample
from monitor.policy.vocabulary import Mode
from monitor.policy_tests.generation import Generation


@dataclass(frozen=True)
class Situation:
    """How a policy stands to a test's request.

    Attributes:
        mode: in force; OFF where the policy does not judge the request.
        reason: why it does not judge, or why the mode is lower than the one that was set; empty otherwise.
        no_model, no_tenant, no_sample: `match` keeps the policy away from the request.
        stale: the serving configuration differs from `fittedOn`.
        request: for exceptions.
    """

    mode: Mode
    reason: str
    no_model: bool
    no_tenant: bool
    no_sample: bool
    stale: bool
    request: RequestFacts

    @property
    def judged(self) -> bool:
        return self.mode is not Mode.OFF


def situation_of(policy: Policy, given: Generation, set_mode: str | None) -> Situation:
    """What is not said of the request is as in `fittedOn`; a model that neither names fits, and without an id it is in
    the sample. `set_mode` is the mode that the test sets, None for that of the file."""
    spec = policy.document.spec
    fitted = spec.fitted_on.model_dump(by_alias=True, exclude_none=True, exclude={"sae", "hook"})
    stated = given.serving.model_dump(by_alias=True, exclude_none=True)
    serving = {**fitted, **stated}
    model, tenant = serving.get("model", ""), given.request.tenant or ""
    no_model = "model" in stated and not matches_model(policy, model)
    no_tenant = not fits_name(spec.match.tenants, tenant)
    request_id = given.request.id
    no_sample = request_id is not None and not in_sample(policy.name, request_id, spec.match.sample)
    mismatch = fit_mismatch(policy, serving)
    mode = policy.mode if set_mode is None else Mode[set_mode.upper()]
    reason = ""
    if mode is Mode.OFF:
        reason = "its mode is off"
    elif no_model:
        mode, reason = Mode.OFF, f"match.models ({', '.join(spec.match.models)}) does not fit {model}"
    elif no_tenant:
        mode = Mode.OFF
        reason = f"match.tenants ({', '.join(spec.match.tenants)}) does not fit {tenant or 'a request without tenant'}"
    elif no_sample:
        mode, reason = Mode.OFF, f"match.sample ({spec.match.sample:g}) leaves {request_id} out"
    elif mismatch:
        mode, reason = min(mode, Mode.SHADOW), "; ".join(mismatch)
    request = RequestFacts(
        tenant=tenant,
        models=(model,) if model else (),
        adapter=given.request.adapter or "",
        day=given.request.day or "",
    )
    return Situation(mode, reason, no_model, no_tenant, no_sample, bool(mismatch), request)
