"""The fields of a policy file. What this version does not implement yet is listed in `planned`."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from monitor.policy.schema import rules
from monitor.policy.schema.detector import Detector
from monitor.policy.schema.fields import Block
from monitor.policy.schema.metadata import FittedOn, Match, Metadata
from monitor.policy.schema.rule import Correlation, Notify, OnDrop, Rule


class Record(Block):
    """What is kept of a generation on which a rule fired."""

    content: Literal["full", "none"] = Field("full", description="Whether the record keeps tokens and text.")


class Spec(Block):
    """What is watched, when it counts, and what is done then."""

    mode: Literal["off", "shadow", "alert", "enforce"] = Field(
        "shadow", description="shadow records what alert would send; enforce may also intervene."
    )
    match: Match = Field(Match(), description="Requests that are judged; left out: all.")
    fitted_on: FittedOn = Field(
        FittedOn(), description="What the thresholds hold for; served otherwise, the policy falls to shadow."
    )
    detectors: tuple[Detector, ...] = Field(
        min_length=1, max_length=256, description="Each turns a direction of the model into a state per token."
    )
    rules: tuple[Rule, ...] = Field(min_length=1, max_length=256, description="Each fires on one request.")
    correlations: tuple[Correlation, ...] = Field(
        (), max_length=64, description="Each fires on what rules did on several requests."
    )
    notify: Notify | None = Field(None, description="Left out: every alert is sent by itself, and only so.")
    record: Record = Field(Record(), description="What is kept of a flagged generation.")
    on_unseen: Literal["accept", "alert", "reread"] = Field(
        "accept", description="What to do about tokens that the tap cannot see and whose verdicts are not known."
    )
    on_drop: OnDrop | None = Field(None, description="Left out: what is dropped is counted.")

    @model_validator(mode="after")
    def _captures_are_kept(self) -> Self:
        rules.content_for_captures([rule.actions for rule in self.rules], self.record.content)
        return self


class PolicyDocument(Block):
    """A Featurewatch policy."""

    api_version: Literal["monitor/v1"] = Field(description="Version of the format.")
    kind: Literal["Policy"] = Field(description="A policy.")
    metadata: Metadata = Field(description="Name, revision, and who answers for it.")
    spec: Spec = Field(description="What the policy does.")
