"""From directions to a score per token, to an aggregate, to clear, warn or fire."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from monitor.policy.schema import rules
from monitor.policy.schema.editor_rules import fields_by_choice
from monitor.policy.schema.fields import Block, Count, Day, FilePath, Identifier, Number, Share, Text, TokenClassName


class Latent(Block):
    """By its index, or by its label in the SAE's catalog."""

    model_config = ConfigDict(json_schema_extra={"anyOf": [{"required": ["index"]}, {"required": ["label"]}]})

    index: Annotated[int, Field(strict=True, ge=0)] | None = Field(None, description="Number of the latent in the SAE.")
    weight: Number = Field(1.0, description="What the activation is multiplied by.")
    label: Text | None = Field(
        None, description="Words for the reader; without an index, the label of one latent in the SAE's catalog."
    )
    over: Number = Field(
        0.0, description="Of any, all and k_of_n: the latent counts where weight times activation is above this."
    )

    @model_validator(mode="after")
    def _named(self) -> Self:
        rules.index_or_label(self.index, self.label)
        return self


class SaeLatents(Block):
    """A score from single latents: of weight times activation the sum or the maximum, or 1 where enough of them are
    over their bounds and 0 elsewhere."""

    model_config = ConfigDict(
        json_schema_extra=fields_by_choice(
            "combine", {"weighted_sum": (), "max": (), "any": (), "all": (), "k_of_n": ("k",)}
        )
    )

    sae: Text = Field(description="Id of the SAE: its path below the zoo folder.")
    latents: tuple[Latent, ...] = Field(min_length=1, max_length=4096, description="Each once.")
    combine: Literal["weighted_sum", "max", "any", "all", "k_of_n"] = Field(
        "weighted_sum", description="How the latents make one score; any, all and k_of_n score 1 or 0."
    )
    k: Count | None = Field(None, description="Of k_of_n: how many latents must be over their bounds.")

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        rules.latents_once([(latent.index, latent.label) for latent in self.latents])
        rules.k_of_latents(self.combine, self.k, len(self.latents))
        rules.over_of_counting(self.combine, ["over" in latent.model_fields_set for latent in self.latents])
        return self


class ProbeFile(Block):
    """A probe that `featurewatch discover` wrote."""

    file: FilePath = Field(description="Safetensors file, relative to the policy file.")


class Source(Block):
    """Exactly one of the three."""

    model_config = ConfigDict(json_schema_extra={"minProperties": 1, "maxProperties": 1})

    sae_latents: SaeLatents | None = Field(None, description="Single latents of one SAE.")
    sae_probe: ProbeFile | None = Field(None, description="Linear probe on latents of one SAE.")
    dense_probe: ProbeFile | None = Field(None, description="Linear probe on the residual stream.")

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        rules.exactly_one(self.sae_latents, self.sae_probe, self.dense_probe)
        return self


class Aggregate(Block):
    """From the scores of the tokens so far to one number."""

    model_config = ConfigDict(json_schema_extra=fields_by_choice("kind", rules.FIELDS_OF_KIND))

    kind: Literal["ema", "rolling_mean", "max", "count_over", "cusum", "mean"] = Field(
        description="ema needs halfLife; rolling_mean window; count_over window and over; cusum drift."
    )
    half_life: Annotated[float, Field(strict=True, allow_inf_nan=False, gt=0, le=1_000_000)] | None = Field(
        None, description="Of ema, in judged tokens."
    )
    window: Annotated[int, Field(strict=True, ge=1, le=4096)] | None = Field(
        None, description="Of rolling_mean and count_over, in judged tokens."
    )
    over: Number | None = Field(None, description="Of count_over: a token counts where its score is above this.")
    drift: Number | None = Field(None, description="Of cusum: what is taken off each token's score.")
    then: Literal["max"] | None = Field(None, description="Keep the highest aggregate so far: it never clears again.")
    min_tokens: Count = Field(1, description="Judged tokens before the state may leave clear.")
    skip: tuple[TokenClassName, ...] = Field(
        ("bos", "special", "template"), description="Token classes that are not judged."
    )

    @model_validator(mode="after")
    def _own_fields(self) -> Self:
        given = {"halfLife": self.half_life, "window": self.window, "over": self.over, "drift": self.drift}
        rules.fields_of_kind(self.kind, given, then=self.then)
        rules.each_once("skip", self.skip)
        return self


class Threshold(Block):
    """On the aggregated score; warn and clear are not above fire."""

    fire: Number = Field(description="The state becomes fire at this score.")
    warn: Number | None = Field(None, description="The state becomes warn at this score; left out: same as fire.")
    clear: Number | None = Field(None, description="Fire ends below this score; left out: same as fire.")

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        rules.not_above_fire("warn", self.warn, self.fire)
        rules.not_above_fire("clear", self.clear, self.fire)
        return self


class Calibration(Block):
    """How the fire threshold was set, so that its false-alarm rate can be recomputed."""

    target_fpr: Annotated[Share, Field(ge=1e-9)] = Field(description="Share of benign generations that may fire.")
    confidence: Share | None = Field(None, description="Of the bound on that share, e.g. 0.95.")
    benign: Text = Field(description="Name of the benign data, best with @sha256:<hash>.")
    n: Annotated[int, Field(strict=True, ge=1, le=10**9)] = Field(description="Benign generations.")
    hits: Annotated[int, Field(strict=True, ge=0, le=10**9)] = Field(description="Those of them that fired.")
    harmful: Text | None = Field(None, description="Name of the harmful data, best with @sha256:<hash>.")
    recall: Annotated[float, Field(strict=True, allow_inf_nan=False, ge=0, le=1)] | None = Field(
        None, description="Share of the harmful generations that fired."
    )
    date: Day | None = Field(None, description="Day of the calibration.")

    @model_validator(mode="after")
    def _hits_of_n(self) -> Self:
        rules.hits_of_n(self.hits, self.n)
        return self


class Detector(Block):
    """A direction of the model, and when it counts as seen."""

    id: Identifier = Field(description="Name in rules, alerts and metrics.")
    source: Source = Field(description="What gives each token its score.")
    aggregate: Aggregate = Field(description="How scores are smoothed.")
    threshold: Threshold = Field(description="From which smoothed score the state is warn or fire.")
    calibration: Calibration | None = Field(None, description="Where the fire threshold comes from.")
