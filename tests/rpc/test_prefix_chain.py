"""Chained hashes of token prefixes."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from monitor.rpc.prefix_chain import ContentKeys, PrefixChain, prefix_root
from monitor.v1.engine_pb2 import EngineInfo

ROOT = prefix_root(EngineInfo(model="m", prefix_block_size=4))
TOKENS = st.lists(st.integers(0, 2**31 - 1), max_size=40)


def hashes(tokens: list[int], *, root: bytes = ROOT, size: int = 4, keys: ContentKeys = ()) -> list[bytes]:
    return PrefixChain(root, size, keys).extend(np.array(tokens, np.int64))


@given(TOKENS, st.lists(st.integers(0, 40)), st.lists(st.tuples(st.integers(0, 40), st.binary(max_size=4))))
def test_chunks_do_not_matter(tokens: list[int], cuts: list[int], keys: list[tuple[int, bytes]]) -> None:
    keys.sort()
    chain = PrefixChain(ROOT, 4, keys)
    edges = [0, *sorted(min(cut, len(tokens)) for cut in cuts), len(tokens)]
    found = [name for a, b in pairwise(edges) for name in chain.extend(np.array(tokens[a:b], np.int64))]
    assert found == hashes(tokens, keys=keys)
    assert chain.position == len(tokens)


@given(TOKENS, TOKENS)
def test_equal_hashes_mean_equal_prefixes(one: list[int], other: list[int]) -> None:
    for block, (a, b) in enumerate(zip(hashes(one), hashes(other), strict=False)):
        assert (a == b) == (one[: 4 * block + 4] == other[: 4 * block + 4])


def test_full_blocks_only() -> None:
    assert [len(hashes(list(range(n)))) for n in (0, 3, 4, 7, 8)] == [0, 0, 1, 1, 2]


def test_content_behind_equal_placeholders_counts_from_its_block_on() -> None:
    tokens = [9] * 12
    cat, dog = hashes(tokens, keys=[(5, b"cat")]), hashes(tokens, keys=[(5, b"dog")])
    assert cat[0] == dog[0]
    assert cat[1] != dog[1]
    assert cat[2] != dog[2]


def test_model_adapter_and_salt_are_part_of_the_root() -> None:
    engine = EngineInfo(model="m", prefix_block_size=4)
    roots = {
        prefix_root(engine),
        prefix_root(engine, adapter="a"),
        prefix_root(engine, cache_salt_sha256=b"a"),
        prefix_root(EngineInfo(model="n", prefix_block_size=4)),
        prefix_root(EngineInfo(model="m", dtype="bfloat16", prefix_block_size=4)),
    }
    assert len(roots) == 5


def test_a_block_has_at_least_one_token() -> None:
    with pytest.raises(ValueError, match="block size 0"):
        PrefixChain(ROOT, 0)
