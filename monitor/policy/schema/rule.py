"""What a policy does when detectors reach a state: on one request, and over several of them."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, ConfigDict, Field, model_validator

from monitor.policy.schema import rules
from monitor.policy.schema.editor_rules import fields_by_choice
from monitor.policy.schema.fields import Block, Day, Duration, Identifier, RuleId, SeverityName, Text, seconds
from monitor.policy.schema.metadata import Patterns


class ExceptionMatch(Block):
    """Requests that an exception is for; all stated fields must fit."""

    model_config = ConfigDict(json_schema_extra={"minProperties": 1})

    tenants: Patterns | None = Field(None, description="Shell patterns of tenants.")
    models: Patterns | None = Field(None, description="Shell patterns of model names, case ignored.")
    adapters: Patterns | None = Field(None, description="Shell patterns of LoRA adapters.")

    @model_validator(mode="after")
    def _not_everyone(self) -> Self:
        rules.some_field(tenants=self.tenants, models=self.models, adapters=self.adapters)
        return self


class RuleException(Block):
    """Requests on which a rule's firings are recorded and counted, but not sent."""

    name: Identifier = Field(description="Alerts that it holds back carry this name.")
    match: ExceptionMatch = Field(description="Requests that it is for.")
    reason: Text = Field(description="Why these requests are excepted.")
    owner: Text = Field(description="Who asked for it and is asked when it expires.")
    expires: Day = Field(description="First day on which it no longer holds, in UTC.")


class Rule(Block):
    """Fires when its condition has held for long enough, once until the condition was false again."""

    model_config = ConfigDict(json_schema_extra={"dependentRequired": {"onTimeout": ["deadlineMs"]}})

    id: RuleId = Field(description="Name in alerts and metrics.")
    when: Annotated[Text, AfterValidator(rules.condition)] = Field(
        description="Detector states joined by and, or, not."
    )
    hold: str = Field(
        "1 token",
        alias="for",
        strict=True,
        pattern=r"^[1-9][0-9]{0,5} tokens?$",
        description="Judged tokens in a row for which the condition must hold, e.g. 3 tokens.",
    )
    severity: SeverityName = Field(description="How bad it is if it is true.")
    actions: tuple[Literal["alert", "capture"], ...] = Field(
        ("alert",),
        min_length=1,
        description="In this order. capture: what the whole SAEs say of the generation goes into its record.",
    )
    deadline_ms: Annotated[int, Field(strict=True, ge=1, le=600_000)] | None = Field(
        None, description="Longest time from the end of a forward pass to the verdict on its tokens."
    )
    on_timeout: Literal["continue", "alert"] | None = Field(
        None, description="A verdict after the deadline: is counted, or alerts as well."
    )
    exceptions: tuple[RuleException, ...] = Field(
        (), max_length=256, description="Requests on which it fires without sending."
    )

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        rules.each_once("actions", self.actions)
        rules.alert_among(self.actions)
        rules.deadline_with_timeout(self.deadline_ms, self.on_timeout)
        rules.names_once("exceptions", [exception.name for exception in self.exceptions])
        return self

    @property
    def hold_tokens(self) -> int:
        """Judged tokens for which `when` must hold."""
        return int(self.hold.split()[0])


class Correlation(Block):
    """A rule over firings of several requests; after Sigma's correlation rules event_count, value_count and
    temporal_ordered."""

    model_config = ConfigDict(
        json_schema_extra=fields_by_choice(
            "kind", {"count": ("atLeast",), "distinct": ("atLeast", "of"), "ordered": ()}
        )
    )

    id: RuleId = Field(description="Name in alerts and metrics, like that of a rule.")
    kind: Literal["count", "distinct", "ordered"] = Field(
        description="count needs atLeast; distinct atLeast and of; ordered two rules or more."
    )
    rules: tuple[Identifier, ...] = Field(
        min_length=1, max_length=64, description="Rules of this policy whose firings are looked at; ordered: in order."
    )
    group_by: tuple[Literal["tenant", "model", "adapter", "tap"], ...] = Field(
        ("tenant",), description="Firings are correlated among those that agree in these."
    )
    within: Duration = Field(description="Time span, e.g. 10m.")
    at_least: Annotated[int, Field(strict=True, ge=2, le=100_000)] | None = Field(
        None, description="Of count: firings. Of distinct: different values."
    )
    of: Literal["generation", "rule", "tenant", "model"] | None = Field(None, description="Of distinct: what differs.")
    severity: SeverityName = Field(description="How bad it is if it is true.")
    actions: tuple[Literal["alert"], ...] = Field(("alert",), min_length=1, description="What is done when it fires.")

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        rules.each_once("rules", self.rules)
        rules.each_once("groupBy", self.group_by)
        rules.each_once("actions", self.actions)
        rules.correlation_fields(self.kind, self.at_least, self.of, self.rules, self.group_by)
        return self

    @property
    def within_seconds(self) -> int:
        return seconds(self.within)


class Notify(Block):
    """How alerts are gathered into notifications; after Alertmanager's grouping."""

    group_by: tuple[Literal["rule", "severity", "tenant", "model", "tap"], ...] = Field(
        (), description="Alerts of this policy are gathered among those that agree in these."
    )
    wait: Duration = Field("30s", description="From a group's first alert to its first notification.")
    interval: Duration = Field("5m", description="Least time between two notifications of a group with new alerts.")
    repeat: Duration = Field("4h", description="A group without new alerts for this long is closed.")

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        rules.each_once("groupBy", self.group_by)
        return self


class OnDrop(Block):
    """What happens when too much of a generation was dropped on its way to the sidecar."""

    threshold: Annotated[float, Field(strict=True, allow_inf_nan=False, ge=0, lt=1)] = Field(
        description="Share of a generation's positions; more than this counts."
    )
    actions: tuple[Literal["log", "alert"], ...] = Field(
        ("log", "alert"), min_length=1, description="log: a warning of the sidecar. alert: of rule on-drop."
    )

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        rules.each_once("actions", self.actions)
        return self
