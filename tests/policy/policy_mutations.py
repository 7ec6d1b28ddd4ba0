"""Mutations of policies that know the format: of the tree of fields, and of the text."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Iterator
from typing import Any

import yaml
from policy_seeds import SEEDS
from schema_paths import schema_paths

from monitor.policy import planned
from monitor.policy.json_schema import json_schema
from monitor.policy.yaml_fields import read_fields

ODD_VALUES = [
    *(None, True, False, 0, -1, 1, 2, 1.5, 10**30, 1e308, 1e-300, 10**400, float("nan"), float("inf"), -0.0),
    *("", " ", "\x1b[0m", "é", "x" * 5000, "1e5", "3", "true", "null", "a.fire", "off", "none", "10m", "2027-02-30"),
    *("enforce", "3 windows", "1 token", "resid_post.99", "on-drop", "*", "../x", "sha256:0", "\ud83d\ude00", "\u2028"),
    *([], [[]], {}, {"a": 1}, {"": ""}, [None], ["*"], [1, "a"], {"a.b[0]": []}),
    # More problems than are told, more nesting than is read, names longer than any.
    *([1] * 150, [{}] * 150, {f"x{number}": number for number in range(150)}, {"k" * 201: [1]}),
    *("(" * 40 + "a.fire", " or ".join(["a.fire"] * 61), "not " * 40 + "a.fire", 10**300, -(10**301)),
]
ODD_TEXTS = [
    *("&a ", "*a", "!!set ", "!!str ", "! "),
    *("\t", "---\n", "'", '"', "{", "}", "[", "]", ": ", "#", "\\", "\0", "%", "|\n", "? "),
    *("- ", ", ", "\r", "\ufeff", "~", "<<: ", "0x1", "1_000", "\u0085", "@", "`", "...\n", ">-\n"),
    *("[" * 25, "{a: " * 25, "- " * 25, "? " * 25, "9" * 301, "k" * 201 + ": ", "a: &a [*a, *a]\n", "x:\n" * 150),
]
TREES: list[Any] = [read_fields(text, name).data for name, text in SEEDS.items()]
KNOWN_NAMES = sorted({path.rpartition(".")[2] for path, _ in schema_paths(json_schema()) if not path.endswith("[]")})
PLANNED_NAMES = sorted(set().union(*planned.FIELDS.values()))
PLANNED_VALUES = sorted(set().union(*planned.VALUES.values()))


class _NoAliases(yaml.SafeDumper):
    def ignore_aliases(self, data: object) -> bool:
        return True


def mutated(seed: int) -> str:
    """The text of a policy after one to three mutations; the same for the same seed."""
    rng = random.Random(seed)
    if seed % 4 == 0:
        text = rng.choice(list(SEEDS.values()))
        for _ in range(rng.randrange(1, 4)):
            text = _mutate_text(rng, text)
        return text
    tree = copy.deepcopy(rng.choice(TREES))
    for _ in range(rng.choice([1, 1, 2, 3])):
        _mutate_tree(rng, tree)
    return _written(rng, tree)


def _written(rng: random.Random, tree: object) -> str:
    """As YAML in one of its styles; JSON is one of them."""
    if rng.random() < 0.3 and not _has_odd_numbers(tree):
        return json.dumps(tree, indent=rng.choice([None, 1, 2]), ensure_ascii=rng.random() < 0.5)
    style = rng.choice([False, None, True])
    return str(yaml.dump(tree, Dumper=_NoAliases, sort_keys=False, allow_unicode=True, default_flow_style=style))


def _mutate_text(rng: random.Random, text: str) -> str:
    at = rng.randrange(max(1, len(text)))
    return text[:at] + rng.choice([*ODD_TEXTS, text[at : at + 40], ""]) + text[at + rng.randrange(4) :]


def _mutate_tree(rng: random.Random, tree: dict[str, Any]) -> None:
    """Changes one place."""
    places = list(_places(tree))
    if not places:
        return
    parent, key = rng.choice(places)
    rng.choice([_replace, _remove, _rename, _repeat, _copy, _nudge, _transplant, _transplant, _plan, _retype])(
        rng, parent, key
    )


def _replace(rng: random.Random, parent: Any, key: Any) -> None:
    parent[key] = copy.deepcopy(rng.choice(ODD_VALUES))


def _remove(_: random.Random, parent: Any, key: Any) -> None:
    del parent[key]


def _rename(rng: random.Random, parent: Any, key: Any) -> None:
    if isinstance(parent, dict):
        name = str(key)
        near = [name[:-1], name + "s", name.lower(), name.upper(), "0", "a.b[0]", rng.choice(KNOWN_NAMES)]
        parent[rng.choice(near)] = parent.pop(key)


def _repeat(_: random.Random, parent: Any, key: Any) -> None:
    if isinstance(parent, list):
        parent.append(copy.deepcopy(parent[key]))


def _copy(rng: random.Random, parent: Any, key: Any) -> None:
    """A value from elsewhere, mostly of another kind."""
    other, other_key = rng.choice(list(_places(rng.choice(TREES))))
    parent[key] = copy.deepcopy(other[other_key])


def _transplant(rng: random.Random, parent: Any, _: Any) -> None:
    """A field from elsewhere under its own name: another choice where the block has it, else one field more."""
    if isinstance(parent, dict):
        others = [(other, name) for tree in TREES for other, name in _places(tree) if isinstance(other, dict)]
        same = [(other, name) for other, name in others if name in parent]
        other, name = rng.choice(same if same and rng.random() < 0.7 else others)
        parent[name] = copy.deepcopy(other[name])


def _plan(rng: random.Random, parent: Any, key: Any) -> None:
    """What belongs to the format and is refused by name, where it belongs and elsewhere."""
    if isinstance(parent, dict) and rng.random() < 0.5:
        parent[rng.choice(PLANNED_NAMES)] = copy.deepcopy(rng.choice(ODD_VALUES))
    else:
        parent[key] = rng.choice(PLANNED_VALUES)


def _nudge(rng: random.Random, parent: Any, key: Any) -> None:
    value = parent[key]
    if isinstance(value, bool):
        parent[key] = not value
    elif isinstance(value, (int, float)):
        parent[key] = rng.choice([0.5, 3, 1e6]) if abs(value) > 1e300 else -value * rng.choice([0.5, -1, 3, -1e6])
    elif isinstance(value, str):
        at = rng.randrange(len(value) + 1)
        parent[key] = value[:at] + rng.choice(["", "x", " ", ".", "-", "é", "(", "1", "\n", "\0"]) + value[at + 1 :]


def _retype(_: random.Random, parent: Any, key: Any) -> None:
    """A number as text, a text as a list, a list as its first entry."""
    value = parent[key]
    if isinstance(value, (int, float)):
        parent[key] = repr(value)
    elif isinstance(value, str):
        parent[key] = float(value) if value.replace(".", "", 1).isdecimal() and value.isascii() else [value]
    elif isinstance(value, list) and value:
        parent[key] = value[0]


def _places(node: object) -> Iterator[tuple[Any, Any]]:
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in items:
        yield node, key
        yield from _places(value)


def _has_odd_numbers(node: object) -> bool:
    """Numbers that JSON does not have."""
    return any(isinstance(parent[key], float) and not abs(parent[key]) < 1e400 for parent, key in _places(node))
