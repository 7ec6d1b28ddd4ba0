"""Rules between the fields of one block, raised so that `pydantic` reports them beside all others."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Any, NoReturn

from pydantic_core import PydanticCustomError

from monitor.policy.vocabulary import UNSEEN_RULE
from monitor.policy.when import ConditionError, parse_condition

#: Type of these errors in pydantic's list; their context holds rule, remedy, the field below the block and its value.
RULE_ERROR = "policy_rule"


def refuse(rule: str, remedy: str, at: str = "", value: Any = None) -> NoReturn:
    context = {"rule": rule, "remedy": remedy, "at": at, "value": value}
    raise PydanticCustomError(RULE_ERROR, "{rule}", context)


def not_above_fire(name: str, value: float | None, fire: float) -> None:
    if value is not None and value > fire:
        refuse(f"{name} must not be above fire ({fire:g})", f"choose {name} <= fire", name, value)


def exactly_one(*sources: object) -> None:
    given = sum(source is not None for source in sources)
    if given != 1:
        refuse(
            f"a detector has exactly one source, this one has {given}",
            "give one of saeLatents, saeProbe, denseProbe; use one detector per source and join them in a rule",
        )


def each_once(name: str, items: Sequence[Any]) -> None:
    for index, item in enumerate(items):
        if item in items[:index]:
            refuse("every entry is given once", "remove the repeated entry", f"{name}[{index}]", item)


def length_of_kind(kind: str, *, half_life: float | None, window: int | None, then: str | None) -> None:
    """Each aggregate has its own length, and only that."""
    for owner, name, value in (("ema", "halfLife", half_life), ("rolling_mean", "window", window)):
        if kind == owner and value is None:
            refuse(f"{owner} needs {name}", f"add {name}, in judged tokens", value=kind, at="kind")
        if kind != owner and value is not None:
            refuse(f"{name} belongs to {owner}, not to {kind}", f"remove {name} or choose kind {owner}", name, value)
    if kind == "max" and then is not None:
        refuse("max is a running maximum already", "remove then", "then", then)


def hits_of_n(hits: int, n: int) -> None:
    if hits > n:
        refuse(f"there are {n} benign generations, so at most {n} hits", "correct hits or n", "hits", hits)


def alert_among(actions: Sequence[str]) -> None:
    if "alert" not in actions:
        refuse("a rule that fires alerts", "add alert to the actions", "actions", list(actions))


def content_for_captures(actions_of_rules: Sequence[Sequence[str]], content: str) -> None:
    """Text can be guessed from the latents of its tokens."""
    for index, actions in enumerate(actions_of_rules):
        if "capture" in actions and content != "full":
            refuse(
                f"captures go into records with content, record.content is {content}",
                "remove capture, or set record.content to full",
                f"rules[{index}].actions",
                list(actions),
            )


def below_policy(file: str) -> str:
    """Probe files lie beside the policy or below: a policy text must not reach for other files."""
    path = PurePosixPath(file)
    if path.is_absolute() or ".." in path.parts or "\0" in file or "\\" in file:
        refuse(
            "a probe's file lies beside the policy file or in a folder below it",
            "copy the probe there and give its relative path, e.g. weights/probe.safetensors",
        )
    return file


def not_reserved(rule_id: str) -> str:
    if rule_id == UNSEEN_RULE:
        refuse(f"alerts of spec.onUnseen carry the rule id {UNSEEN_RULE}", "choose another id, e.g. unseen-1")
    return rule_id


def condition(text: str) -> str:
    try:
        parse_condition(text)
    except ConditionError as error:
        found = f" {error.value!r}" if error.value else ""
        refuse(f"at character {error.position}{found}: {error.rule}", error.remedy)
    return text
