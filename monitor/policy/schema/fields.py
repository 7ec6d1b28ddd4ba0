"""Kinds of values that the blocks of a policy file share."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from monitor.policy.schema import rules

#: A number as YAML writes it: no strings, no booleans, no NaN, no infinity. The bounds keep all later sums finite.
Number = Annotated[float, Field(strict=True, allow_inf_nan=False, ge=-1e30, le=1e30)]
Share = Annotated[float, Field(strict=True, allow_inf_nan=False, gt=0, lt=1)]
Text = Annotated[str, Field(strict=True, min_length=1, max_length=4000)]
#: Stable names in metrics and alerts.
PolicyName = Annotated[str, Field(strict=True, pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")]
Identifier = Annotated[str, Field(strict=True, pattern=r"^[A-Za-z][A-Za-z0-9_-]{0,62}$")]
RuleId = Annotated[Identifier, AfterValidator(rules.not_reserved)]
Hook = Annotated[str, Field(strict=True, pattern=r"^resid_post\.(0|[1-9][0-9]{0,3})$")]
Sha256 = Annotated[str, Field(strict=True, pattern=r"^sha256:[0-9a-f]{64}$")]
#: A day as ISO 8601 writes it.
Day = Annotated[str, Field(strict=True, pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}$"), AfterValidator(rules.real_day)]
Duration = Annotated[str, Field(strict=True, pattern=r"^[1-9][0-9]{0,5}(s|m|h|d)$")]
FilePath = Annotated[Text, AfterValidator(rules.below_policy)]
Count = Annotated[int, Field(strict=True, ge=1, le=1_000_000)]
TokenClassName = Literal["bos", "special", "template", "system"]
SeverityName = Literal["informational", "low", "medium", "high", "critical"]

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


class Block(BaseModel):
    """Camel-case keys, none unknown, never changed after reading."""

    model_config = ConfigDict(alias_generator=to_camel, extra="forbid", frozen=True, populate_by_name=False)


def seconds(duration: str) -> int:
    """Of a `Duration`, e.g. 600 of ``10m``."""
    return int(duration[:-1]) * _SECONDS[duration[-1]]
