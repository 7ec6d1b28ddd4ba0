"""Mutated policies are accepted with all their fields or refused; nothing else ever comes out."""

from __future__ import annotations

import copy
import random

import pytest
import yaml
from policy_samples import GOOD, FakeSources

from monitor.policy import PolicyEngine, PolicyError, check_policy, compile_policies, parse_policy

GOOD_TREE = yaml.safe_load(GOOD)
ODD_VALUES = [
    *(None, True, False, 0, -1, 1, 10**30, 1e308, float("nan"), float("inf"), "", " ", "\x1b[0m", "é", "x" * 5000),
    *(
        [],
        [[]],
        {},
        {"a": 1},
        {"": ""},
        [None],
        "1e5",
        "a.fire",
        "off",
        "enforce",
        "3 windows",
        "resid_post.99",
        10**400,
    ),
]
ODD_TEXTS = [
    "&a ",
    "*a",
    "!!set ",
    "\t",
    "---\n",
    "'",
    '"',
    "{",
    "}",
    "[",
    "]",
    ": ",
    "#",
    "\\",
    "\0",
    "%",
    "|\n",
    "? ",
]


def mutate_tree(rng: random.Random, node: object) -> object:
    """Changes one place of the tree: replaces, removes, renames, repeats or moves."""
    places = list(walk(node))
    parent, key = rng.choice(places)
    choice = rng.randrange(6)
    value = parent[key]
    if choice == 0:
        parent[key] = rng.choice(ODD_VALUES)
    elif choice == 1:
        del parent[key]
    elif choice == 2 and isinstance(parent, dict):
        name = rng.choice([str(key)[:-1], str(key) + "s", str(key).lower(), "steer", "k", "0", "a.b[0]"])
        parent[name] = parent.pop(key)
    elif choice == 3 and isinstance(parent, list):
        parent.append(value)
    elif choice == 4:
        other, other_key = rng.choice(places)
        if other is not value and other_key in (other if isinstance(other, dict) else range(len(other))):
            parent[key] = other[other_key] if not contains(other[other_key], parent) else 1
    elif isinstance(value, (int, float)):
        parent[key] = rng.choice([0.5, 3, 1e6]) if abs(value) > 1e300 else -value * rng.choice([0.5, 3, 1e6])
    elif isinstance(value, str):
        at = rng.randrange(len(value) + 1)
        parent[key] = value[:at] + rng.choice(["", "x", " ", ".", "-", "é", "("]) + value[at + 1 :]
    return node


def walk(node):  # type: ignore[no-untyped-def]
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in items:
        yield node, key
        yield from walk(value)


def contains(node: object, wanted: object) -> bool:
    if node is wanted:
        return True
    children = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
    return any(contains(child, wanted) for child in children)


class NoAliases(yaml.SafeDumper):
    def ignore_aliases(self, data: object) -> bool:
        return True


def mutate_text(rng: random.Random, text: str) -> str:
    at = rng.randrange(len(text))
    return text[:at] + rng.choice([*ODD_TEXTS, text[at : at + 40], ""]) + text[at + rng.randrange(4) :]


def mutations(seed: int) -> str:
    rng = random.Random(seed)
    if seed % 3 == 0:
        text = GOOD
        for _ in range(rng.randrange(1, 4)):
            text = mutate_text(rng, text)
        return text
    tree: object = copy.deepcopy(GOOD_TREE)
    for _ in range(rng.randrange(1, 4)):
        tree = mutate_tree(rng, tree)
    return yaml.dump(tree, Dumper=NoAliases, sort_keys=False, allow_unicode=True)


@pytest.mark.parametrize("block", range(10))
def test_a_mutated_policy_is_accepted_or_refused(block: int) -> None:
    accepted = refused = 0
    for seed in range(block * 60, block * 60 + 60):
        text = mutations(seed)
        try:
            policy = parse_policy(text, "p.yaml")
        except PolicyError as error:
            refused += 1
            lines = text.count("\n") + 2
            for problem in error.problems:
                assert 1 <= problem.line <= lines, (seed, problem)
                assert problem.rule, (seed, problem)
                assert problem.remedy, (seed, problem)
            continue
        accepted += 1
        written = yaml.safe_load(text)["spec"]["detectors"]
        read = [detector.model_dump(by_alias=True, exclude_unset=True) for detector in policy.document.spec.detectors]
        assert plain(read) == plain(written), seed
        if not check_policy(policy, FakeSources()):
            PolicyEngine(compile_policies([policy], FakeSources()))
    assert accepted, "mutations that leave a good policy are among them"
    assert refused


def plain(value: object) -> object:
    """Tuples as lists."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value
