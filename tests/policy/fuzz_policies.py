"""Judges as many mutated policies as you like: ``python tests/policy/fuzz_policies.py --mutations 20000``."""

from __future__ import annotations

import argparse
from collections import Counter

from policy_mutations import mutated
from policy_oracle import verdict


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mutations", type=int, default=20_000)
    parser.add_argument("--first", type=int, default=0, help="Seed of the first mutation.")
    options = parser.parse_args()
    verdicts: Counter[str] = Counter()
    for seed in range(options.first, options.first + options.mutations):
        try:
            verdicts[verdict(mutated(seed))] += 1
        except Exception as error:
            raise SystemExit(f"seed {seed}: {type(error).__name__}: {error}\n{mutated(seed)}") from error
    print(f"{options.mutations} mutations: {verdicts['accepted']} accepted, {verdicts['refused']} refused")


if __name__ == "__main__":
    main()
