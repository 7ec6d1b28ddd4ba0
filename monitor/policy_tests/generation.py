"""The fields of one request of a test: its tokens and what came with them."""

from __future__ import annotations

import re
from typing import Annotated, Self

from pydantic import AfterValidator, Field, model_validator

from monitor.policy.schema import rules
from monitor.policy.schema.fields import Block, Identifier, Text
from monitor.policy.vocabulary import Phase, TokenClass
from monitor.policy_tests.series import parse_scores, parse_words
from monitor.policy_tests.times import parse_times

PHASES = tuple(phase.name.lower() for phase in Phase)
CLASSES = tuple(token_class.name.lower() for token_class in TokenClass)
#: What became of a position on its way to the detectors, as the sidecar's coverage counts it.
SEEN = ("observed", "dropped", "unseen")
_DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")


def _scores(text: str) -> str:
    parse_scores(text)
    return text


def _phases(text: str) -> str:
    parse_words(text, PHASES)
    return text


def _classes(text: str) -> str:
    parse_words(text, CLASSES)
    return text


def _seen(text: str) -> str:
    parse_words(text, SEEN)
    return text


def _times(text: str) -> str:
    parse_times(text)
    return text


def _day(text: str) -> str:
    if not _DAY.fullmatch(text):
        rules.refuse("must be a day as year-month-day", "write for example 2027-01-31")
    return rules.real_day(text)


Series = Annotated[str, Field(strict=True, min_length=1, max_length=100_000)]
Tokens = Annotated[
    dict[str, Annotated[Series, AfterValidator(_scores)]],
    Field(
        min_length=1,
        description="Token scores by detector, e.g. '0x20 8x3 _ 0..5x10'. Detectors that are left out judge nothing.",
    ),
]


class Serving(Block):
    """The serving configuration of a test. What is left out is as in the policy's fittedOn."""

    model: Text | None = Field(None, description="Name of the model: match.models and fittedOn.model look at it.")
    revision: Text | None = Field(None, description="Revision of the model.")
    dtype: Text | None = Field(None, description="float32, bfloat16 or float16.")
    quantization: Text | None = Field(None, description="Quantisation of the weights, e.g. fp8; none.")
    kv_cache_dtype: Text | None = Field(None, description="Type of the KV cache, e.g. auto or fp8.")
    vllm: Text | None = Field(None, description='Version of vLLM, in quotes: "0.32.0".')


class Request(Block):
    """Whose request it is."""

    tenant: Text | None = Field(None, description="Left out: the request names none.")
    adapter: Text | None = Field(None, description="LoRA adapter; left out: none.")
    day: Annotated[str, Field(strict=True), AfterValidator(_day)] | None = Field(
        None, description="Day on which it begins, in UTC. Left out: no exception has expired."
    )
    id: Text | None = Field(
        None, description="The engine's id of it, by which match.sample decides. Left out: it is in the sample."
    )
    tap: Text | None = Field(None, description="Tap that reports it. Left out: the same for all that name none.")


class Generation(Block):
    """What a policy is given of one request."""

    name: Identifier | None = Field(None, description="For `expect` and for the report.")
    tokens: Tokens | None = None
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
    seen: Annotated[Series, AfterValidator(_seen)] | None = Field(
        None,
        description="Positions that no detector saw, e.g. 'unseenx16 observedx20 droppedx2'. Left out: all are "
        "observed. Scores of the others do not count.",
    )
    verdict_after_ms: Annotated[int, Field(strict=True, ge=0, le=600_000)] | None = Field(
        None, description="Time from the end of each forward pass to its verdict. Left out: in time."
    )
    serving: Serving = Field(Serving(), description="What the engine serves. Left out: what fittedOn states.")
    request: Request = Field(Request(), description="Whose request it is, and when.")

    @model_validator(mode="after")
    def _one_way_to_say_phases(self) -> Self:
        if self.prompt is not None and self.phases is not None:
            rules.refuse("prompt and phases say the same", "remove one of them", "phases")
        return self


class CaseRequest(Generation):
    """One of several requests of a test, or several alike."""

    time: Annotated[Series, AfterValidator(_times)] = Field(
        "0s",
        description="When it begins, from the start of the test on, e.g. 10m; several times are several requests, e.g. "
        "'0s..4mx5'.",
    )
    tokens: Tokens
