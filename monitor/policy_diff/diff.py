"""Two versions of a policy, compared field by field."""

from __future__ import annotations

import re
from dataclasses import dataclass

from monitor.policy import Policy
from monitor.policy_diff.conditions import compare
from monitor.policy_diff.effects import Effect, Kind, effect_of
from monitor.policy_diff.meaning import Leaf, meaning_of, write_out_levels

#: The innermost block with a name that a path lies in.
_BLOCKS = re.compile(r"((?:detectors|rules|correlations)\[[^\]]+\](?:\.exceptions\[[^\]]+\])?)\.")


@dataclass(frozen=True)
class Change:
    """`old` and `new` are None where the field, or the block at `path`, is not there."""

    path: str
    old: Leaf | None
    new: Leaf | None
    kind: Kind
    effect: str


def diff_policies(old: Policy, new: Policy) -> list[Change]:
    """What differs in meaning, in the order of the fields; blocks that came or went are one change each."""
    before, after = meaning_of(old), meaning_of(new)
    write_out_levels(before, after)
    changes = [*_blocks(before, after)]
    skipped = tuple(f"{change.path}." for change in changes)
    for path in dict.fromkeys((*before, *after)):
        was, now = before.get(path), after.get(path)
        if was == now or path.startswith(skipped):
            continue
        effect = effect_of(path, was, now, (old, new))
        if path.startswith("rules[") and path.endswith(".when"):
            how = compare(str(was), str(now))
            if how == "same":
                continue
            effect = _condition(path, how)
        changes.append(Change(path, was, now, *effect))
    order = {path: number for number, path in enumerate(dict.fromkeys((*before, *after)))}
    return sorted(changes, key=lambda change: min(n for path, n in order.items() if path.startswith(change.path)))


def _blocks(before: dict[str, Leaf], after: dict[str, Leaf]) -> list[Change]:
    was, now = _named_blocks(before), _named_blocks(after)
    changes = []
    for block in [*was, *now]:
        if block in was and block in now:
            continue
        outer = block.rpartition(".exceptions[")[0]
        if outer and not (outer in was and outer in now):
            continue
        came = block in now
        changes.append(Change(block, None if came else "", "" if came else None, *_came_or_went(block, came=came)))
    return changes


def _named_blocks(flat: dict[str, Leaf]) -> dict[str, None]:
    found: dict[str, None] = {}
    for path in flat:
        for match in _BLOCKS.finditer(path):
            block = path[: match.end() - 1]
            found.setdefault(block)
            outer = block.rpartition(".exceptions[")[0]
            if outer:
                found.setdefault(outer)
    return found


def _came_or_went(block: str, *, came: bool) -> Effect:
    if ".exceptions[" in block:
        rule = block[len("rules[") : block.index("]")]
        told = f"{rule} is {'held back on' if came else 'sent for'} the requests that it fits"
        return (Kind.LESS if came else Kind.MORE), told
    if block.startswith("detectors["):
        return Kind.DIFFERENT, "its readings are in alerts and records" if came else "its readings are no longer there"
    what = "rule" if block.startswith("rules[") else "correlation"
    return (Kind.MORE, f"one more {what} can fire") if came else (Kind.LESS, f"this {what} fires no more")


def _condition(path: str, how: str) -> Effect:
    rule = path[len("rules[") : path.index("]")]
    return {
        "more": (Kind.MORE, f"{rule} holds whenever it did, and more often"),
        "less": (Kind.LESS, f"{rule} holds only where it did, and less often"),
        "other": (Kind.DIFFERENT, f"{rule} can fire on other generations"),
    }[how]
