"""Whether texts reach the parts of a request that a policy judges."""

from __future__ import annotations

from collections.abc import Sequence

from monitor.cli.calibration.request import Request
from monitor.cli.calibration.texts import Sample
from monitor.errors import FeaturewatchError
from monitor.policy import Policy


def without_responses(request: Request, policy: Policy, samples: Sequence[Sample]) -> list[str]:
    """A note where the policy judges responses and nothing but prompts will be computed: production judges more tokens
    of a generation, so it flags more of them than is found here.

    Raises:
        FeaturewatchError: thresholds that were found so were to be written.
    """
    if "response" not in policy.document.spec.match.phases:
        return []
    if request.max_tokens > 1 or any(sample.response for sample in samples if not sample.is_harmful):
        return []
    remedy = (
        "give --max-tokens N"
        if request.engine == "vllm"
        else "give texts with a response, or take --engine vllm with --max-tokens N"
    ) + ", or let match.phases name the prompt alone"
    rule = "in production their tokens count too, so more generations are flagged than prompts alone show"
    if request.write:
        raise FeaturewatchError(f"--write for policy {policy.name}, which judges responses, on prompts", rule, remedy)
    return [f"Only prompts were computed, but the policy judges responses: {rule}. So {remedy}."]
