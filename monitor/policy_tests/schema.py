"""The fields of a policy's test file."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, ConfigDict, Field, model_validator
from pydantic.alias_generators import to_camel

from monitor.policy.json_schema import schema_of
from monitor.policy.schema import rules
from monitor.policy.schema.fields import Block, Text
from monitor.policy_tests.expectations import ExpectedFiring, ExpectedNotification, ExpectedState
from monitor.policy_tests.generation import CaseRequest, Generation
from monitor.policy_tests.times import parse_times

#: Requests of one test: as many as the largest `atLeast` of a correlation.
MAX_REQUESTS = 100_000


def _beside(file: str) -> str:
    if rules.reaches_elsewhere(file):
        rules.refuse(
            "the policy lies beside its tests or in a folder below them",
            "move the tests beside the policy and give its file name",
        )
    return file


class Case(Generation):
    """One request, or several, and what the policy must make of them."""

    model_config = ConfigDict(json_schema_extra={"oneOf": [{"required": ["tokens"]}, {"required": ["requests"]}]})

    name: Text = Field(description="What the test shows, in words; each test of a file has its own.")
    requests: tuple[CaseRequest, ...] | None = Field(
        None,
        min_length=1,
        max_length=1000,
        description="In place of tokens and what belongs to them: several requests.",
    )
    mode: Literal["off", "shadow", "alert", "enforce"] | None = Field(
        None, description="As if set when the sidecar is started, or while it runs. Left out: as in the policy."
    )
    expect: tuple[ExpectedFiring, ...] = Field(
        max_length=1000, description="Every firing, in order; [] expects silence. A firing that is not here fails."
    )
    expect_states: tuple[ExpectedState, ...] = Field(
        (),
        max_length=1000,
        description="How detectors stand after some tokens. States that are not here are not looked at.",
    )
    expect_notifications: tuple[ExpectedNotification, ...] | None = Field(
        None, max_length=1000, description="Every notification; one that is not here fails. Left out: not looked at."
    )

    @model_validator(mode="after")
    def _one_request_or_several(self) -> Self:
        if self.requests is None and self.tokens is None:
            rules.refuse("a test has tokens, or requests that have them", "add for example tokens: {bio: '0x20 8x3'}")
        if self.requests is not None:
            for name in Generation.model_fields:
                if name != "name" and name in self.model_fields_set:
                    field = to_camel(name)
                    rules.refuse(
                        f"in a test with requests each of them has its own {field}", f"move {field} there", field
                    )
            count = sum(item.count for one in self.requests for item in parse_times(one.time))
            if count > MAX_REQUESTS:
                rules.refuse(
                    f"a test has at most {MAX_REQUESTS} requests, this one has {count}",
                    "write a shorter test",
                    "requests",
                )
        return self


class PolicyTestDocument(Block):
    """Tests of a Featurewatch policy."""

    api_version: Literal["monitor/v1"] = Field(description="Version of this format.")
    kind: Literal["PolicyTest"] = Field(description="What this file is.")
    policy: Annotated[Text, AfterValidator(_beside)] = Field(description="The policy file, beside this one.")
    tests: tuple[Case, ...] = Field(
        min_length=1, max_length=1000, description="The tests: one request each, or several."
    )


def json_schema_of_tests() -> dict[str, Any]:
    """The JSON Schema of test files; what only Python can check (series, what the policy has) is not in it."""
    return schema_of(PolicyTestDocument, "Tests of a Featurewatch policy")
