"""Rules between the fields of one block, raised so that `pydantic` reports them beside all others."""

from __future__ import annotations

from calendar import monthrange
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any, NoReturn

from pydantic_core import PydanticCustomError

from monitor.policy.vocabulary import RESERVED_RULES
from monitor.policy.when import ConditionError, parse_condition

#: Type of these errors in pydantic's list; their context holds rule, remedy and the field below the block.
RULE_ERROR = "policy_rule"


def refuse(rule: str, remedy: str, at: str = "") -> NoReturn:
    context = {"rule": rule, "remedy": remedy, "at": at}
    raise PydanticCustomError(RULE_ERROR, "{rule}", context)


def not_above_fire(name: str, value: float | None, fire: float) -> None:
    if value is not None and value > fire:
        refuse(f"{name} must not be above fire ({fire:g})", f"choose {name} <= fire", name)


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
            refuse("every entry is given once", "remove the repeated entry", f"{name}[{index}]")


#: Which fields each kind of aggregate needs; it takes no others.
FIELDS_OF_KIND: dict[str, tuple[str, ...]] = {
    "ema": ("halfLife",),
    "rolling_mean": ("window",),
    "max": (),
    "count_over": ("window", "over"),
    "cusum": ("drift",),
    "mean": (),
}
_MEANING = {
    "halfLife": "in judged tokens",
    "window": "in judged tokens",
    "over": "the score above which a token counts",
    "drift": "a little above the mean score of benign tokens",
}


def fields_of_kind(kind: str, given: Mapping[str, float | None], *, then: str | None) -> None:
    """Each aggregate has fields of its own, and only those."""
    for name, value in given.items():
        needed = name in FIELDS_OF_KIND[kind]
        if needed and value is None:
            refuse(f"{kind} needs {name}", f"add {name}, {_MEANING[name]}", "kind")
        if not needed and value is not None:
            owners = [owner for owner, names in FIELDS_OF_KIND.items() if name in names]
            rule = f"{name} belongs to {' and '.join(owners)}, not to {kind}"
            refuse(rule, f"remove {name} or choose kind {owners[0]}", name)
    if kind == "max" and then is not None:
        refuse("max is a running maximum already", "remove then", "then")


def index_or_label(index: int | None, label: str | None) -> None:
    if index is None and label is None:
        refuse("a latent is named by its index or its label", "add index, e.g. index: 1248")


def latents_once(latents: Sequence[tuple[int | None, str | None]]) -> None:
    """By index, else by label."""
    seen = set[int | str | None]()
    for number, (index, label) in enumerate(latents):
        name = label if index is None else index
        if name in seen:
            field = "label" if index is None else "index"
            refuse("every latent is given once", "remove the repeated entry", f"latents[{number}].{field}")
        seen.add(name)


def k_of_latents(combine: str, k: int | None, count: int) -> None:
    if combine == "k_of_n" and k is None:
        refuse("k_of_n needs k", "add k, how many latents must be over their bounds", "combine")
    if combine != "k_of_n" and k is not None:
        refuse(f"k belongs to k_of_n, not to {combine}", "remove k or choose combine k_of_n", "k")
    if k is not None and k > count:
        refuse(f"there are {count} latents, so at most {count} can be over their bounds", "lower k", "k")


def over_of_counting(combine: str, stated: Sequence[bool]) -> None:
    if combine in ("weighted_sum", "max") and any(stated):
        rule = f"over belongs to any, all and k_of_n, not to {combine}"
        refuse(rule, "remove over or choose combine any", f"latents[{list(stated).index(True)}].over")


def some_field(**fields: object) -> None:
    if all(value is None for value in fields.values()):
        names = ", ".join(fields)
        refuse(f"it must say for which requests it holds ({names})", "add for example tenants: [red-team]")


def deadline_with_timeout(deadline_ms: int | None, on_timeout: str | None) -> None:
    if on_timeout is not None and deadline_ms is None:
        refuse("onTimeout needs deadlineMs", "add deadlineMs, e.g. 50", "onTimeout")


def correlation_fields(
    kind: str, at_least: int | None, of: str | None, rules: Sequence[str], group_by: Sequence[str]
) -> None:
    """`atLeast` of count and distinct, `of` of distinct; ordered has two rules or more."""
    if kind == "ordered" and len(rules) < 2:
        refuse("ordered needs two rules or more", "name the rules in the order in which they must fire", "rules")
    if kind == "ordered" and at_least is not None:
        refuse("atLeast belongs to count and distinct, not to ordered", "remove atLeast", "atLeast")
    if kind != "ordered" and at_least is None:
        refuse(f"{kind} needs atLeast", "add atLeast, e.g. 5", "kind")
    if kind == "distinct" and of is None:
        refuse("distinct needs of", "add of: generation, rule, tenant or model", "kind")
    if kind != "distinct" and of is not None:
        refuse(f"of belongs to distinct, not to {kind}", "remove of or choose kind distinct", "of")
    if of is not None and of in group_by:
        refuse(f"within a group all have the same {of}", f"remove {of} from groupBy, or choose another of", "of")


def hits_of_n(hits: int, n: int) -> None:
    if hits > n:
        refuse(f"there are {n} benign generations, so at most {n} hits", "correct hits or n", "hits")


def alert_among(actions: Sequence[str]) -> None:
    if "alert" not in actions:
        refuse("a rule that fires alerts", "add alert to the actions", "actions")


def content_for_captures(actions_of_rules: Sequence[Sequence[str]], content: str) -> None:
    """Text can be guessed from the latents of its tokens."""
    for index, actions in enumerate(actions_of_rules):
        if "capture" in actions and content != "full":
            refuse(
                f"captures go into records with content, record.content is {content}",
                "remove capture, or set record.content to full",
                f"rules[{index}].actions",
            )


def reaches_elsewhere(file: str) -> bool:
    """A relative path out of the folder, or none at all."""
    path = PurePosixPath(file)
    return path.is_absolute() or ".." in path.parts or "\0" in file or "\\" in file


def below_policy(file: str) -> str:
    """Probe files lie beside the policy or below: a policy text must not reach for other files."""
    if reaches_elsewhere(file):
        refuse(
            "a probe's file lies beside the policy file or in a folder below it",
            "copy the probe there and give its relative path, e.g. weights/probe.safetensors",
        )
    return file


def not_reserved(rule_id: str) -> str:
    if rule_id in RESERVED_RULES:
        refuse(
            f"alerts of {RESERVED_RULES[rule_id]} carry the rule id {rule_id}", f"choose another id, e.g. {rule_id}-1"
        )
    return rule_id


def names_once(block: str, names: Sequence[str]) -> None:
    for index, name in enumerate(names):
        if name in names[:index]:
            refuse("the name is already used", "choose another name", f"{block}[{index}].name")


def real_day(day: str) -> str:
    year, month, number = (int(part) for part in day.split("-"))
    if not (year >= 1 and 1 <= month <= 12 and 1 <= number <= monthrange(year, month)[1]):
        refuse("there is no such day", "write year-month-day, e.g. 2027-01-31")
    return day


def condition(text: str) -> str:
    try:
        parse_condition(text)
    except ConditionError as error:
        found = f" {error.value!r}" if error.value else ""
        refuse(f"at character {error.position}{found}: {error.rule}", error.remedy)
    return text
