"""Who answers for a policy, where it applies, and on what its thresholds were fitted."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from monitor.policy.schema.fields import Block, Hook, PolicyName, Sha256, Text

Patterns = Annotated[tuple[Text, ...], Field(min_length=1, max_length=256)]


class Metadata(Block):
    """What people and metrics know the policy by."""

    name: PolicyName = Field(description="Stable id of the policy in alerts and metrics.")
    revision: Annotated[int, Field(strict=True, ge=1, le=2**32 - 1)] = Field(
        description="Grows with every change; decisions name it."
    )
    owner: Text | None = Field(None, description="Who answers for the policy.")
    status: Literal["experimental", "test", "stable", "deprecated"] = Field("experimental", description="Maturity.")
    runbook: Text | None = Field(None, description="Where the person on call finds what to do.")
    description: Text | None = Field(None, description="What it looks for and what it misses.")
    references: tuple[Text, ...] = Field((), description="Papers, tickets, data sheets.")


class Match(Block):
    """Which requests are judged, and which parts of them; all stated fields must fit."""

    models: Patterns = Field(("*",), description="Shell patterns of model names, case ignored.")
    tenants: Patterns = Field(
        ("*",),
        description="Shell patterns of tenants; * also fits requests that name none, which no other pattern does.",
    )
    phases: tuple[Literal["prompt", "reasoning", "response"], ...] = Field(
        ("prompt", "reasoning", "response"), min_length=1, description="Parts of a request that are judged."
    )
    sample: Annotated[float, Field(strict=True, allow_inf_nan=False, gt=0, le=1)] = Field(
        1.0, description="Share of the requests that are judged, chosen by a hash of the request's id."
    )


class FittedOn(Block):
    """The serving configuration that the thresholds were fitted on. Only stated keys are compared."""

    model: Text | None = Field(None, description="Last part of the model's name, case ignored.")
    revision: Text | None = Field(None, description="Of the model, e.g. a commit.")
    dtype: Literal["float32", "bfloat16", "float16"] | None = Field(None, description="Activation dtype.")
    quantization: Text | None = Field(None, description="Of the weights, as vLLM names it, e.g. fp8.")
    kv_cache_dtype: Text | None = Field(None, description="Of the cache, as vLLM names it, e.g. auto.")
    vllm: Text | None = Field(None, description="Version of vLLM, or its beginning such as 0.32.")
    sae: Sha256 | None = Field(None, description="Hash of the SAE's weights.")
    hook: Hook | None = Field(None, description="Hook point, e.g. resid_post.14.")
