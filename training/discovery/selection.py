"""Which of the loaded prompts are used: ``--keep``, ``--cap`` and ``--hard`` name sources of the data."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Sequence

from monitor.errors import FeaturewatchError
from training.discovery.config import DiscoverConfig
from training.discovery.prompt import Prompt


def selected(prompts: Sequence[Prompt], config: DiscoverConfig) -> list[Prompt]:
    """The prompts that `keep` and `cap` leave, in the given order.

    Raises:
        FeaturewatchError: an option that is not written as it must be, or that names what the prompts lack.
    """
    categories: dict[str, set[str]] = {}
    for prompt in prompts:
        categories.setdefault(prompt.source, set()).add(prompt.category)
    for source in config.hard:
        _require("hard", source, source, "source", set(categories))
        if not any(prompt.source == source and not prompt.is_positive for prompt in prompts):
            raise FeaturewatchError(
                f"--hard {source}", "hard sources are of negatives, and it has none", "name a source with label 0"
            )
    wanted = _wanted(config.keep, categories)
    most = _most(config.cap, set(categories))
    kept = [prompt for prompt in prompts if prompt.category in wanted.get(prompt.source, {prompt.category})]
    taken: Counter[tuple[str, bool, bool]] = Counter()
    chosen = []
    for prompt in kept:
        key = (prompt.source, prompt.is_val, prompt.is_positive)
        if taken[key] < most.get(prompt.source, len(prompts)):
            taken[key] += 1
            chosen.append(prompt)
    return chosen


def _wanted(keep: Sequence[str], categories: dict[str, set[str]]) -> dict[str, set[str]]:
    wanted: dict[str, set[str]] = {}
    for entry in keep:
        source, category = _pair(entry, "keep", "do_not_answer=malicious_uses")
        _require("keep", entry, source, "source", set(categories))
        _require("keep", entry, category, f"category of {source}", categories[source])
        wanted.setdefault(source, set()).add(category)
    return wanted


def _most(cap: Sequence[str], sources: set[str]) -> dict[str, int]:
    most = {}
    for entry in cap:
        source, number = _pair(entry, "cap", "clinc150=500")
        if not (number.isascii() and number.isdigit() and int(number) > 0):
            raise FeaturewatchError(
                f"--cap {entry}", "it is written source=number, above 0", "write for example clinc150=500"
            )
        _require("cap", entry, source, "source", sources)
        most[source] = int(number)
    return most


def _require(flag: str, entry: str, name: str, what: str, known: set[str]) -> None:
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        listing = ", ".join(sorted(known)[:20]) or "none"
        raise FeaturewatchError(
            f"--{flag} {entry}",
            f"{name!r} is no {what} in the data (known: {listing})",
            f"did you mean {near[0]!r}" if near else "name one of these",
        )


def _pair(entry: str, flag: str, example: str) -> tuple[str, str]:
    left, equals, right = entry.partition("=")
    if not (left and equals and right):
        raise FeaturewatchError(f"--{flag} {entry}", "it is written source=value", f"write for example {example}")
    return left, right
