"""The fields of a policy's test file."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from monitor.policy.json_schema import schema_of
from monitor.policy.schema import rules
from monitor.policy.schema.fields import Block, Text
from monitor.policy.vocabulary import Phase, TokenClass
from monitor.policy_tests.series import parse_scores, parse_words

PHASES = tuple(phase.name.lower() for phase in Phase)
CLASSES = tuple(token_class.name.lower() for token_class in TokenClass)
_DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_LAST_POSITION = 10_000_000


def _scores(text: str) -> str:
    parse_scores(text)
    return text


def _beside(file: str) -> str:
    if rules.reaches_elsewhere(file):
        rules.refuse(
            "the policy lies beside its tests or in a folder below them",
            "move the tests beside the policy and give its file name",
        )
    return file


def _phases(text: str) -> str:
    parse_words(text, PHASES)
    return text


def _classes(text: str) -> str:
    parse_words(text, CLASSES)
    return text


def _day(text: str) -> str:
    if not _DAY.fullmatch(text):
        rules.refuse("must be a day as year-month-day", "write for example 2027-01-31")
    return rules.real_day(text)


Series = Annotated[str, Field(strict=True, min_length=1, max_length=100_000)]
Position = Annotated[int, Field(strict=True, ge=0, lt=_LAST_POSITION)]


class Serving(Block):
    """The serving configuration of a test. What is left out is as in the policy's fittedOn."""

    model: Text | None = Field(None, description="Name of the model: match.models and fittedOn.model look at it.")
    revision: Text | None = None
    dtype: Text | None = None
    quantization: Text | None = None
    kv_cache_dtype: Text | None = None
    vllm: Text | None = None


class Request(Block):
    """The request of a test."""

    tenant: Text | None = Field(None, description="Left out: the request names none.")
    adapter: Text | None = Field(None, description="LoRA adapter; left out: none.")
    day: Annotated[str, Field(strict=True), AfterValidator(_day)] | None = Field(
        None, description="Day on which it begins, in UTC. Left out: no exception has expired."
    )


class ExpectedFiring(Block):
    """A rule begins to fire at a token."""

    at: Position = Field(description="Position of the token, from 0.")
    rule: Text = Field(description="Id of one of the policy's rules.")
    would_act: tuple[Literal["alert", "capture"], ...] | None = Field(
        None, description="What is done in mode alert; nothing where an exception holds. Left out: not looked at."
    )
    mode: Literal["shadow", "alert", "enforce"] | None = Field(
        None, description="The mode that is in force. Left out: not looked at."
    )
    exception: Text | None = Field(None, description="Name of the exception that holds; left out: none does.")


class ExpectedState(Block):
    """How a detector stands after a token."""

    at: Position = Field(description="Position of the token, from 0.")
    detector: Text
    state: Literal["clear", "warn", "fire"]


class Case(Block):
    """One generation and what the policy must make of it."""

    name: Text
    tokens: dict[str, Annotated[Series, AfterValidator(_scores)]] = Field(
        min_length=1,
        description="Token scores by detector, e.g. '0x20 8x3 _ 0..5x10'. Detectors that are left out judge nothing.",
    )
    prompt: Annotated[int, Field(strict=True, ge=0)] | None = Field(
        None,
        description="How many tokens are the prompt, the others are the response. Without prompt and phases all belong "
        "to the first phase that the policy judges.",
    )
    phases: Annotated[Series, AfterValidator(_phases)] | None = Field(
        None, description="In place of prompt: e.g. 'promptx12 reasoningx20 responsex8'."
    )
    classes: Annotated[Series, AfterValidator(_classes)] | None = Field(
        None, description="Token classes, e.g. 'bos specialx2 contentx20'. Left out: all are content."
    )
    serving: Serving = Serving()
    request: Request = Request()
    mode: Literal["off", "shadow", "alert", "enforce"] | None = Field(
        None, description="As if set when the sidecar is started, or while it runs. Left out: as in the policy."
    )
    expect: tuple[ExpectedFiring, ...] = Field(
        max_length=1000, description="Every firing, in order; [] expects silence. A firing that is not here fails."
    )
    expect_states: tuple[ExpectedState, ...] = Field((), max_length=1000)

    @model_validator(mode="after")
    def _one_way_to_say_phases(self) -> Self:
        if self.prompt is not None and self.phases is not None:
            rules.refuse("prompt and phases say the same", "remove one of them", "phases")
        return self


class PolicyTestDocument(Block):
    """Tests of a Featurewatch policy."""

    api_version: Literal["monitor/v1"]
    kind: Literal["PolicyTest"]
    policy: Annotated[Text, AfterValidator(_beside)] = Field(description="The policy file, beside this one.")
    tests: tuple[Case, ...] = Field(min_length=1, max_length=1000)


def json_schema_of_tests() -> dict[str, Any]:
    """The JSON Schema of test files; what only Python can check (series, what the policy has) is not in it."""
    return schema_of(PolicyTestDocument, "Tests of a Featurewatch policy")
