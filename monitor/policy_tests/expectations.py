"""The fields of what a test expects."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, PlainValidator, WithJsonSchema

from monitor.policy.schema import rules
from monitor.policy.schema.fields import Block, Text
from monitor.policy_tests.times import parse_time

_LAST_POSITION = 10_000_000


def _time(text: str) -> str:
    parse_time(text)
    return text


def _which(value: object) -> int | str:
    if isinstance(value, bool) or not isinstance(value, (int, str)) or value == "":
        rules.refuse("must be a request's number, from 0, or its name", "write for example 0")
    return value


Position = Annotated[int, Field(strict=True, ge=0, lt=_LAST_POSITION)]
Which = Annotated[
    int | str,
    PlainValidator(_which),
    WithJsonSchema({"anyOf": [{"type": "integer", "minimum": 0}, {"type": "string", "minLength": 1}]}),
]
_REQUEST = "Number of the request, from 0 in the order of the file, or its name. Left out: every request of the test."


class ExpectedFiring(Block):
    """A rule begins to fire at a token, or a correlation is completed there."""

    request: Which | None = Field(None, description=_REQUEST)
    at: Position = Field(description="Position of the token, from 0.")
    rule: Text = Field(
        description="Id of one of the policy's rules or correlations, or on-unseen, on-drop, on-timeout."
    )
    correlated: Annotated[int, Field(strict=True, ge=1)] | None = Field(
        None, description="How many alerts a correlation names, at most 100. Left out: not looked at."
    )
    would_act: tuple[Literal["alert", "capture"], ...] | None = Field(
        None, description="What is done in mode alert; nothing where an exception holds. Left out: not looked at."
    )
    mode: Literal["shadow", "alert", "enforce"] | None = Field(
        None, description="The mode that is in force. Left out: not looked at."
    )
    exception: Text | None = Field(None, description="Name of the exception that holds; left out: none does.")
    late: Annotated[bool, Field(strict=True)] | None = Field(
        None, description="Whether the verdict comes after the rule's deadlineMs. Left out: not looked at."
    )


class ExpectedState(Block):
    """How a detector stands after a token."""

    request: Which | None = Field(None, description=_REQUEST)
    at: Position = Field(description="Position of the token, from 0.")
    detector: Text = Field(description="Id of one of the policy's detectors.")
    state: Literal["clear", "warn", "fire"] = Field(description="Its state once the token was judged.")


class ExpectedNotification(Block):
    """Alerts that are told together."""

    time: Annotated[str, Field(strict=True, min_length=1, max_length=100), AfterValidator(_time)] = Field(
        description="When it is sent, from the start of the test on, e.g. 30s."
    )
    group: dict[str, Annotated[str, Field(strict=True, max_length=4000)]] = Field(
        default_factory=dict, description="Value of each field of the policy's groupBy."
    )
    alerts: Annotated[int, Field(strict=True, ge=1)] = Field(description="How many alerts it tells of.")
