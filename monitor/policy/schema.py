"""The fields of a policy file. What this version does not implement yet is listed in `planned`."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator
from pydantic.alias_generators import to_camel

from monitor.policy import schema_rules as rules

#: A number as YAML writes it: no strings, no booleans, no NaN, no infinity. The bounds keep all later sums finite.
Number = Annotated[float, Field(strict=True, allow_inf_nan=False, ge=-1e30, le=1e30)]
Text = Annotated[str, Field(strict=True, min_length=1, max_length=4000)]
#: Stable names in metrics and alerts.
PolicyName = Annotated[str, Field(strict=True, pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")]
Identifier = Annotated[str, Field(strict=True, pattern=r"^[A-Za-z][A-Za-z0-9_-]{0,62}$")]
Hook = Annotated[str, Field(strict=True, pattern=r"^resid_post\.(0|[1-9][0-9]{0,3})$")]
FilePath = Annotated[Text, AfterValidator(rules.below_policy)]
Count = Annotated[int, Field(strict=True, ge=1, le=1_000_000)]
TokenClassName = Literal["bos", "special", "template", "system"]


class _Fields(BaseModel):
    """Camel-case keys, none unknown, never changed after reading."""

    model_config = ConfigDict(alias_generator=to_camel, extra="forbid", frozen=True, populate_by_name=False)


class Metadata(_Fields):
    name: PolicyName = Field(description="Stable id of the policy in alerts and metrics.")
    revision: Annotated[int, Field(strict=True, ge=1, le=2**32 - 1)] = Field(
        description="Grows with every change; decisions name it."
    )
    owner: Text | None = Field(None, description="Who answers for the policy.")
    status: Literal["experimental", "test", "stable", "deprecated"] = Field("experimental", description="Maturity.")
    runbook: Text | None = Field(None, description="Where the person on call finds what to do.")
    description: Text | None = Field(None, description="What it looks for and what it misses.")
    references: tuple[Text, ...] = Field((), description="Papers, tickets, data sheets.")


class Match(_Fields):
    models: tuple[Text, ...] = Field(("*",), min_length=1, description="Shell patterns of model names, case ignored.")
    phases: tuple[Literal["prompt", "response"], ...] = Field(
        ("prompt", "response"), min_length=1, description="Parts of a request that are judged."
    )


class FittedOn(_Fields):
    """The serving configuration that the thresholds were fitted on. Only stated keys are compared."""

    model: Text | None = Field(None, description="Last part of the model's name, case ignored.")
    revision: Text | None = None
    dtype: Literal["float32", "bfloat16", "float16"] | None = Field(None, description="Activation dtype.")
    quantization: Text | None = None
    kv_cache_dtype: Text | None = None
    vllm: Text | None = Field(None, description="Version of vLLM, or its beginning such as 0.32.")
    sae: Annotated[str, Field(strict=True, pattern=r"^sha256:[0-9a-f]{64}$")] | None = Field(
        None, description="Hash of the SAE's weights."
    )
    hook: Hook | None = None


class Latent(_Fields):
    index: Annotated[int, Field(strict=True, ge=0)]
    weight: Number = 1.0
    label: Text | None = None


class SaeLatents(_Fields):
    """A score from single latents: weighted sum or maximum of weight times activation."""

    sae: Text = Field(description="Id of the SAE: its path below the zoo folder.")
    latents: tuple[Latent, ...] = Field(min_length=1, max_length=4096)
    combine: Literal["weighted_sum", "max"] = "weighted_sum"

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        rules.each_once("latents", [latent.index for latent in self.latents])
        return self


class ProbeFile(_Fields):
    file: FilePath = Field(description="Safetensors file, relative to the policy file.")


class Source(_Fields):
    """Exactly one of the three."""

    model_config = ConfigDict(json_schema_extra={"minProperties": 1, "maxProperties": 1})

    sae_latents: SaeLatents | None = None
    sae_probe: ProbeFile | None = Field(None, description="Linear probe on latents of one SAE.")
    dense_probe: ProbeFile | None = Field(None, description="Linear probe on the residual stream.")

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        rules.exactly_one(self.sae_latents, self.sae_probe, self.dense_probe)
        return self


class Aggregate(_Fields):
    kind: Literal["ema", "rolling_mean", "max"]
    half_life: Annotated[float, Field(strict=True, allow_inf_nan=False, gt=0, le=1_000_000)] | None = Field(
        None, description="Of ema, in judged tokens."
    )
    window: Annotated[int, Field(strict=True, ge=1, le=4096)] | None = Field(
        None, description="Of rolling_mean, in judged tokens."
    )
    then: Literal["max"] | None = Field(None, description="Keep the highest aggregate so far: it never clears again.")
    min_tokens: Count = Field(1, description="Judged tokens before the state may leave clear.")
    skip: tuple[TokenClassName, ...] = Field(
        ("bos", "special", "template"), description="Token classes that are not judged."
    )

    @model_validator(mode="after")
    def _own_length(self) -> Self:
        rules.length_of_kind(self.kind, half_life=self.half_life, window=self.window, then=self.then)
        rules.each_once("skip", self.skip)
        return self


class Threshold(_Fields):
    fire: Number = Field(description="The state becomes fire at this score.")
    warn: Number | None = Field(None, description="The state becomes warn at this score; left out: same as fire.")
    clear: Number | None = Field(None, description="Fire ends below this score; left out: same as fire.")

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        rules.not_above_fire("warn", self.warn, self.fire)
        rules.not_above_fire("clear", self.clear, self.fire)
        return self


class Calibration(_Fields):
    """How the fire threshold was set, so that its false-alarm rate can be recomputed."""

    target_fpr: Annotated[float, Field(strict=True, allow_inf_nan=False, gt=0, lt=1)]
    confidence: Annotated[float, Field(strict=True, allow_inf_nan=False, gt=0, lt=1)] | None = None
    benign: Text = Field(description="Name of the benign data, best with @sha256:<hash>.")
    n: Annotated[int, Field(strict=True, ge=1)] = Field(description="Benign generations.")
    hits: Annotated[int, Field(strict=True, ge=0)] = Field(description="Those of them that fired.")

    @model_validator(mode="after")
    def _hits_of_n(self) -> Self:
        rules.hits_of_n(self.hits, self.n)
        return self


class Detector(_Fields):
    id: Identifier
    source: Source
    aggregate: Aggregate
    threshold: Threshold
    calibration: Calibration | None = None


class Rule(_Fields):
    id: Annotated[Identifier, AfterValidator(rules.not_reserved)]
    when: Annotated[Text, AfterValidator(rules.condition)] = Field(
        description="Detector states joined by and, or, not."
    )
    hold: str = Field("1 token", alias="for", strict=True, pattern=r"^[1-9][0-9]{0,5} tokens?$")
    severity: Literal["informational", "low", "medium", "high", "critical"]
    actions: tuple[Literal["alert", "capture"], ...] = Field(
        ("alert",), min_length=1, description="capture: what the whole SAEs say of the generation goes into its record."
    )

    @model_validator(mode="after")
    def _actions_fit(self) -> Self:
        rules.each_once("actions", self.actions)
        rules.alert_among(self.actions)
        return self

    @property
    def hold_tokens(self) -> int:
        """Judged tokens for which `when` must hold."""
        return int(self.hold.split()[0])


class Record(_Fields):
    content: Literal["full", "none"] = Field("full", description="Whether the record keeps tokens and text.")


class Spec(_Fields):
    mode: Literal["off", "shadow", "alert"] = Field("shadow", description="shadow records what alert would send.")
    match: Match = Match()
    fitted_on: FittedOn = FittedOn()
    detectors: tuple[Detector, ...] = Field(min_length=1, max_length=256)
    rules: tuple[Rule, ...] = Field(min_length=1, max_length=256)
    record: Record = Record()
    on_unseen: Literal["accept", "alert", "reread"] = Field(
        "accept", description="What to do about tokens that the tap cannot see and whose verdicts are not known."
    )

    @model_validator(mode="after")
    def _captures_are_kept(self) -> Self:
        rules.content_for_captures([rule.actions for rule in self.rules], self.record.content)
        return self


class PolicyDocument(_Fields):
    """A Featurewatch policy."""

    api_version: Literal["monitor/v1"]
    kind: Literal["Policy"]
    metadata: Metadata
    spec: Spec
